"""Preprocessing and scoring make the same ids of a record, or refuse it for the same reason."""

import functools
import json
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modellink_rm.config.preprocess import PreprocessConfig
from modellink_rm.config.tokenizer import TokenizerConfig
from modellink_rm.dataset.indexed import IndexedReader
from modellink_rm.dataset.manifest import array_prefix, read_manifest
from modellink_rm.inference.reader import RecordReader
from modellink_rm.inference.record_tokenizer import RecordTokenizer
from modellink_rm.inference.result import NotScored
from modellink_rm.preprocess.encode import RecordEncoder
from modellink_rm.preprocess.pipeline import preprocess_with
from modellink_rm.records import Record, read_records
from modellink_rm.templates.choice import kept_template
from modellink_rm.tokenizers.load import load_tokenizer
from tests.unit.conftest import train_tokenizer_json
from tests.unit.handlers.test_fuzz import GOOD, OFF_BY_DEFAULT, spoiled

# What is written of an answer depends on the system message, the tools and the turn.
CHAT_TEMPLATE = """{%- if messages[0].role == 'system' %}{% set system = messages[0].content %}{% endif -%}
{%- for message in messages %}{{- '<|im_start|>' + message.role + '\n' + message.content }}
{%- if message.role == 'assistant' %}{{ ' ' ~ loop.index }}
{%- if system %} s{% endif %}{% if tools %}{{ tools | tojson }}{% endif %}{% endif %}
{{- '<|im_end|>' }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"""
FILE_TEMPLATE = {
    "name": "mine",
    "format_user": {"slots": ["Q{{idx}}: {{content}} A:"]},
    "format_system": {"slots": ["S: {{content}}\n"]},
    "format_assistant": {"slots": [" {{content}}", ["eos_token"]]},
}
STEP_END = "a"  # every tokenizer here has a token for it
# Reasons to leave a record out of the data that are none not to score it.
NOTHING_TO_TRAIN_ON = ("no step has a label", "no attribute is rated")
# None is the tokenizer's own chat template, by default.
TEMPLATES = ["qwen3", "qwen3_no_thinking", None, "mine", "llama2", "chatglm3"]


@pytest.fixture(scope="session")
def chat_directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("chat")
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    train_tokenizer_json(special=special, not_special=["<think>", "</think>"]).save(
        str(directory / "tokenizer.json")
    )
    config = {"eos_token": "<|im_end|>", "chat_template": CHAT_TEMPLATE}
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    (directory / "templates.json").write_text(json.dumps([FILE_TEMPLATE]))
    return directory


@pytest.fixture(params=TEMPLATES)
def rendering(request, chat_directory, control_directory, chatglm_directory):
    """A template, and the directory of the tokenizer that it is used with."""
    directories = {"llama2": control_directory, "chatglm3": chatglm_directory}
    return request.param, directories.get(request.param, chat_directory)


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda file: None)


@functools.cache
def pair_tokenizer(handler, map_keys, template, directory):
    config = PreprocessConfig(
        input=("records.jsonl",),
        output_prefix="x",
        handler_name=handler,
        map_keys=map_keys,
        prompt_type=template,
        prompt_type_path=str(directory / "templates.json") if template == "mine" else None,
        placeholder_token=STEP_END,
        rejects="rejects.jsonl",
    )
    return RecordEncoder(config, TokenizerConfig(tokenizer_name_or_path=str(directory)))


@functools.cache
def tokenizer_of(directory):
    return load_tokenizer(TokenizerConfig(tokenizer_name_or_path=str(directory)))


def record_tokenizer(manifest, directory):
    """What scores with a checkpoint whose data has this manifest."""
    return RecordTokenizer(
        reader=RecordReader(trained_handler=manifest.handler, trained_map_keys=manifest.map_keys),
        template=kept_template(manifest.template, manifest.template_definition, where="the checkpoint"),
        tokenizer=tokenizer_of(directory),
        seq_length=1 << 20,
        truncation="right",
        placeholder=manifest.placeholder_token,
    )


def written(texts, handler, map_keys, template, directory, output):
    """The manifest, and for each record its stored sequences or the reason it was refused for."""
    (output / "records.jsonl").write_bytes(b"\n".join(texts))
    config = PreprocessConfig(
        input=(str(output / "records.jsonl"),),
        output_prefix=str(output / "x"),
        handler_name=handler,
        map_keys=map_keys,
        prompt_type=template,
        prompt_type_path=str(directory / "templates.json") if template == "mine" else None,
        placeholder_token=STEP_END,
        rejects=str(output / "rejects.jsonl"),
    )
    preprocess_with(pair_tokenizer(handler, map_keys, template, directory), config)
    prefix = output / "x"
    manifest = read_manifest(prefix)
    chosen, rejected = (
        IndexedReader(array_prefix(prefix, f"{side}_input_ids")) for side in ("chosen", "rejected")
    )
    refused = {}
    for line in (output / "rejects.jsonl").read_text().splitlines():
        entry = json.loads(line)
        refused[entry["place"]] = entry["reason"]
    rows = iter(range(len(chosen)))
    others = iter(rejected[index].tolist() for index in range(len(rejected)))
    num_others = 0 if set(manifest.num_responses) == {"1"} else 1  # of single responses, or of pairs
    sizes = rejected.documents if "3" in manifest.num_responses else [num_others] * len(chosen)

    def stored():
        row = next(rows)
        return [chosen[row].tolist(), *(next(others) for _ in range(sizes[row]))]

    found = [refused.get(record.place) or stored() for record in read_records(str(output / "records.jsonl"))]
    assert next(rows, None) is None
    return manifest, found


def scored(inputs, records):
    """For each record its sequences, or the reason it was refused for."""
    return [
        item.reason
        if isinstance(item, NotScored)
        else [response.input_ids.tolist() for response in item.example.responses]
        for item in map(inputs, records)
    ]


@pytest.mark.parametrize("handler", sorted(GOOD))
@settings(max_examples=2, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(choose=st.randoms(use_true_random=False))
def test_stored_ids_are_those_that_are_scored(handler, rendering, choose):
    template, directory = rendering
    good = GOOD[handler]
    if template in ("llama2", "mine"):  # they have no form for tools
        good = {name: value for name, value in good.items() if name != "tools"}
    texts = [json.dumps(good).encode(), *(spoiled(good, choose) for _ in range(20))]
    with tempfile.TemporaryDirectory() as name:
        output = Path(name)
        manifest, found = written(texts, handler, OFF_BY_DEFAULT.get(handler), template, directory, output)
        records = list(read_records(str(output / "records.jsonl")))
        of_scoring = scored(record_tokenizer(manifest, directory), records)
        for ids, stored in zip(of_scoring, found, strict=True):
            # A record that has no rated response may be a pair, and is then refused as one.
            is_pair = handler == "RatedResponseHandler" and isinstance(ids, str) and isinstance(stored, str)
            assert ids == stored or stored in NOTHING_TO_TRAIN_ON or is_pair


def message(role, content):
    return {"role": role, "content": content}


@pytest.mark.parametrize("system", [None, "s"])
@pytest.mark.parametrize("tools", [None, [{"name": "f"}, {"name": "g"}]])
@pytest.mark.parametrize("num_turns", [1, 3])
@pytest.mark.parametrize("template", [None, "qwen3"])
def test_a_response_alone_has_the_ids_that_it_has_in_a_pair(
    system, tools, num_turns, template, chat_directory, tmp_path
):
    turns = [message("user", "q"), message("assistant", "<think>x</think>a"), message("user", "r")]
    prompt = ([message("system", system)] if system else []) + turns[:num_turns]
    record = {"prompt": prompt, "tools": tools}
    pair = {**record, "chosen": "sings", "rejected": "sleeps"}
    handler = "OpenAiMessagesPairwiseHandler"
    texts = [json.dumps(pair).encode()]
    manifest, (stored,) = written(texts, handler, None, template, chat_directory, tmp_path)
    records = [
        {**record, "responses": ["sings", "sleeps"]},
        {**record, "response": "sings"},
        {**record, "response": "sleeps"},
    ]
    inputs = record_tokenizer(manifest, chat_directory)
    assert scored(inputs, [Record("x", one) for one in records]) == [stored, stored[:1], stored[1:]]


def test_three_responses_are_scored_by_the_ids_that_are_stored(chat_directory, tmp_path):
    record = {"prompt": "q", "responses": ["a", "b", "c"], "ranks": [2, 3, 1]}
    manifest, (stored,) = written(
        [json.dumps(record).encode()], "RankedResponsesHandler", None, "qwen3", chat_directory, tmp_path
    )
    item = record_tokenizer(manifest, chat_directory)(Record("x", record))
    assert [response.input_ids.tolist() for response in item.example.responses] == stored
    assert item.conversation.places == (2, 0, 1)


def test_unranked_records_are_not_preprocessed(chat_directory):
    from modellink_rm.preprocess.rows import from_bytes
    from modellink_rm.records import RawRecord, RecordBlock

    work = pair_tokenizer("PromptResponseHandler", None, "qwen3", chat_directory)
    rows = from_bytes(work(RecordBlock([RawRecord("x:1", b'{"prompt": "q", "responses": ["a", "b"]}')])))
    assert [refused.reason for refused in rows.refused] == ["no response is preferred"]
    assert len(rows.num_responses) == 0
