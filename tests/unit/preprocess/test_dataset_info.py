"""Entries of LLaMA-Factory's dataset_info.json, as its data/README.md describes them."""

import json

import pytest

from modellink_rm.base.errors import UserError, run_command
from modellink_rm.commands.preprocess import main
from modellink_rm.config.preprocess import PreprocessConfig
from modellink_rm.conversation import Message, Pair
from modellink_rm.dataset.dataset import open_dataset
from modellink_rm.handlers import HANDLERS, make_handler
from modellink_rm.preprocess.dataset_info import with_dataset_info
from modellink_rm.records import read_records

INFO = {
    "dpo_alpaca": {
        "file_name": "alpaca.json",
        "ranking": True,
        "columns": {"prompt": "question", "query": None, "images": None, "chosen": "good", "rejected": "bad"},
    },
    "dpo_en": {
        "file_name": "sharegpt.jsonl",
        "file_sha1": "0",
        "ranking": True,
        "formatting": "sharegpt",
        "columns": {"messages": "conversations", "chosen": "chosen", "rejected": "rejected"},
    },
    "dpo_openai": {
        "file_name": "openai.jsonl",
        "ranking": True,
        "formatting": "openai",
        "columns": {"messages": "messages", "chosen": "chosen", "rejected": "rejected"},
        "tags": {"user_tag": "person"},
    },
    "more": {
        "file_name": "more.jsonl",
        "ranking": True,
        "formatting": "sharegpt",
        "columns": {"messages": "conversations", "chosen": "chosen", "rejected": "rejected"},
    },
    "sft": {"file_name": "sft.json"},
    "hub": {"hf_hub_url": "owner/name", "ranking": True},
    "images": {"file_name": "x.json", "ranking": True, "columns": {"images": "images"}},
    "half": {"file_name": "x.json", "ranking": True, "num_samples": 100},
    "other": {"file_name": "x.json", "ranking": True, "formatting": "sharegtp"},
    "nothing": {"ranking": True},
}
GPT = {"chosen": {"from": "gpt", "value": "a"}, "rejected": {"from": "gpt", "value": "b"}}
FILES = {
    "alpaca.json": {"question": "q", "input": "unused", "good": "a", "bad": "b"},
    "sharegpt.jsonl": {"conversations": [{"from": "human", "value": "q"}], **GPT},
    "more.jsonl": {"conversations": [{"from": "human", "value": "q"}], **GPT},
    "openai.jsonl": {
        "messages": [{"role": "person", "content": "q"}],
        "chosen": {"role": "assistant", "content": "a"},
        "rejected": {"role": "assistant", "content": "b"},
    },
}
EXPECTED = Pair(None, "", (Message("user", "q"),), Message("assistant", "a"), Message("assistant", "b"))


@pytest.fixture
def directory(tmp_path):
    (tmp_path / "dataset_info.json").write_text(json.dumps(INFO))
    for name, record in FILES.items():
        (tmp_path / name).write_text(json.dumps(record) + "\n")
    return tmp_path


def resolved(directory, *names, **flags):
    return with_dataset_info(
        PreprocessConfig(
            input=names, dataset_dir=str(directory), output_prefix="x", prompt_type="qwen", **flags
        )
    )


@pytest.mark.parametrize(
    ("names", "count"),
    [(["dpo_alpaca"], 1), (["dpo_en"], 1), (["dpo_openai"], 1), (["dpo_en", "more"], 2)],
)
def test_an_entry_says_files_handler_and_fields(directory, names, count):
    config = resolved(directory, *names)
    assert config.dataset_dir is None
    handler = make_handler(config.handler_name, config.map_keys)
    assert [handler(record.fields) for record in read_records(config.input)] == [EXPECTED] * count


def test_an_entry_may_name_the_hub(directory):
    assert resolved(directory, "hub").input == ("owner/name",)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["dpo_eng"], r"unknown --input in .*dataset_info.json 'dpo_eng'; did you mean dpo_en\?"),
        (["sft"], 'entry sft has no "ranking": true'),
        (["half"], "entry half: num_samples is not supported"),
        (["other"], "unknown formatting 'sharegtp'; did you mean sharegpt"),
        (["nothing"], "entry nothing names neither file_name nor hf_hub_url"),
        (["dpo_en", "dpo_alpaca"], "the entries differ in their columns"),
    ],
)
def test_an_entry_that_cannot_be_used_is_an_error(directory, names, message):
    with pytest.raises(UserError, match=message):
        resolved(directory, *names)


def test_columns_that_no_handler_knows_are_an_error(directory):
    config = resolved(directory, "images")
    with pytest.raises(UserError, match="unknown key of --map-keys 'images'"):
        make_handler(config.handler_name, config.map_keys)


@pytest.mark.parametrize(("content", "message"), [("{", "is not valid JSON"), ("[]", "an object of objects")])
def test_a_broken_dataset_info_is_an_error(tmp_path, content, message):
    with pytest.raises(UserError, match="does not exist"):
        resolved(tmp_path, "x")
    (tmp_path / "dataset_info.json").write_text(content)
    with pytest.raises(UserError, match=message):
        resolved(tmp_path, "x")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            {"handler_name": "AlpacaStylePairwiseHandler"},
            "--handler-name and --dataset-dir exclude each other",
        ),
        ({"map_keys": "{}"}, "--map-keys and --dataset-dir exclude each other"),
        ({"dataset_dir": None}, "--handler-name is required: .* the same command with --handler-name list"),
    ],
)
def test_flags_that_say_the_same_twice_are_an_error(flags, message):
    values = {"input": ("x",), "dataset_dir": "y", "output_prefix": "x", "prompt_type": "qwen"} | flags
    with pytest.raises(UserError, match=message):
        PreprocessConfig(**values)


def test_the_same_command_with_handler_name_list_prints_all_names(tmp_path, capsys):
    (tmp_path / "in.jsonl").write_text("{}")
    words = ["--input", str(tmp_path / "in.jsonl"), "--output-prefix", str(tmp_path / "x")]
    assert run_command(main, words) == 2
    assert "the same command with --handler-name list" in capsys.readouterr().err
    assert run_command(main, [*words, "--handler-name", "list"]) == 2
    told = capsys.readouterr().err
    assert [name for name in HANDLERS if name not in told] == []


def test_on_the_command_line_dataset_dir_needs_no_handler(tmp_path, sentencepiece_path):
    (tmp_path / "dataset_info.json").write_text(json.dumps(INFO))
    (tmp_path / "alpaca.json").write_text(json.dumps([FILES["alpaca.json"]]))
    prefix = tmp_path / "out" / "x"
    words = ["--dataset-dir", str(tmp_path), "--input", "dpo_alpaca", "--output-prefix", str(prefix)]
    words += ["--tokenizer-model", str(sentencepiece_path), "--prompt-type", "llama2"]
    assert run_command(main, words) == 0
    assert len(open_dataset(prefix)) == 1
