"""The tokenizer's own chat template, for the families that people train reward models on."""

import datetime
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer
from transformers.utils import chat_template_utils

from modellink_rm.base.errors import UserError
from modellink_rm.conversation import Message, Pair
from modellink_rm.records import RecordError
from modellink_rm.templates import table
from modellink_rm.templates.chat_template import chat_renderer_of
from modellink_rm.templates.choice import find_template, kept_template
from modellink_rm.templates.encode import num_closing_tokens, tokenize_responses
from modellink_rm.templates.files import definition_of
from modellink_rm.tokenizers.tokenizer import Tokenizer
from tests.unit.conftest import load_directory, train_tokenizer_json
from tests.unit.templates.families import (
    CALLED,
    CONTROL_TOKENS,
    SYSTEM,
    TALKS,
    TEMPLATES,
    TOOL,
    WITHOUT_SYSTEM,
    WRAPPED,
)

CALL = Message("function_call", '{"name": "f", "arguments": {"x": "é"}}')
RESULT = Message("observation", '{"r": 2}')
ONE, TWO = Message("user", "one?"), Message("user", "two?")
TURNS = (ONE, Message("assistant", "First."), TWO)
TOOLS = json.dumps([TOOL], ensure_ascii=False)
# The end of an answer, and what the publisher's template writes after it.
ENDS = {
    "llama3": ("<|eot_id|>", "<|start_header_id|>assistant<|end_header_id|>\n\n"),
    "llama3.1": ("<|eot_id|>", ""),
    "llama3.3": ("<|eot_id|>", ""),
    "qwen2.5": ("<|im_end|>", "\n"),
    "qwen3": ("<|im_end|>", "\n"),
    "gemma2": ("<end_of_turn>", "\n"),
    "gemma3": ("<end_of_turn>", "\n"),
    "mistral-nemo": ("</s>", ""),
    "mixtral": ("</s>", ""),
    "phi3.5": ("</s>", ""),
    "phi3": ("<|end|>", "\n"),
    "phi4": ("<|im_end|>", ""),
    "olmo2": ("</s>", ""),
    "glm4-0414": ("", ""),
    "internlm2": ("<|im_end|>", "\n"),
    "gpt-oss": ("<|return|>", ""),
    "deepseek2": ("</s>", ""),
}


@pytest.fixture(scope="module")
def serialized() -> str:
    return train_tokenizer_json(special=CONTROL_TOKENS, not_special=["<think>", "</think>"]).to_str()


@pytest.fixture(scope="module")
def directory_of(tmp_path_factory: pytest.TempPathFactory, serialized: str) -> Any:
    """A function from a chat template to a tokenizer's directory that carries it."""

    def made(chat_template: str) -> Path:
        directory = tmp_path_factory.mktemp("family")
        (directory / "tokenizer.json").write_text(serialized)
        (directory / "chat_template.jinja").write_text(chat_template)
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
        (directory / "tokenizer_config.json").write_text(json.dumps(config))
        return directory

    return made


@pytest.fixture
def on_the_date(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers renders as on the day that templates are fixed to."""

    class Day(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> "Day":
            return cls(2024, 7, 26)

    monkeypatch.setattr(chat_template_utils, "datetime", Day)


def opened(directory: Path) -> tuple[Tokenizer, table.Template]:
    tokenizer = load_directory(directory)
    return tokenizer, find_template(None, tokenizer)


def ids_of(pair: Pair, template: table.Template, tokenizer: Tokenizer) -> list[int]:
    tokens = tokenize_responses(pair, template, tokenizer)
    return [*tokens.prompt_ids, *tokens.response_ids[0]]


def pair_of(system: str | None, tools: str, turns: tuple[Message, ...], answer: str | Message) -> Pair:
    message = Message("assistant", answer) if isinstance(answer, str) else answer
    return Pair(system, tools, turns, message, message)


def talk_of(family: str) -> Pair:
    return pair_of(None if family in WITHOUT_SYSTEM else SYSTEM, "", TURNS, "Second.")


def transformers_ids(directory: Path, messages: list[dict[str, Any]], **options: Any) -> list[int]:
    own = AutoTokenizer.from_pretrained(str(directory))
    ids: list[int] = own.apply_chat_template(messages, tokenize=True, return_dict=True, **options)[
        "input_ids"
    ]
    return ids


@pytest.mark.usefixtures("on_the_date")
@pytest.mark.parametrize("family", TALKS)
def test_a_talk_has_the_ids_of_transformers_and_the_published_text(family: str, directory_of: Any) -> None:
    directory = directory_of(TEMPLATES[family])
    tokenizer, template = opened(directory)
    ids = ids_of(talk_of(family), template, tokenizer)
    assert tokenizer.decode(ids) == TALKS[family]
    messages = [{"role": turn.role, "content": turn.content} for turn in TURNS]
    if family not in WITHOUT_SYSTEM:
        messages.insert(0, {"role": "system", "content": SYSTEM})
    whole = transformers_ids(directory, [*messages, {"role": "assistant", "content": "Second."}])
    end, after = ENDS[family]
    assert whole[: len(ids)] == ids
    assert tokenizer.decode(whole[len(ids) :]) == after
    assert not end or ids[-1] == tokenizer.token_to_id(end)


@pytest.mark.usefixtures("on_the_date")
@pytest.mark.parametrize("family", CALLED)
def test_calls_and_their_results_have_the_ids_of_transformers(family: str, directory_of: Any) -> None:
    directory = directory_of(TEMPLATES[family])
    tokenizer, template = opened(directory)
    ids = ids_of(pair_of(None, TOOLS, (ONE, CALL, RESULT), "Two."), template, tokenizer)
    assert tokenizer.decode(ids) == CALLED[family]
    arguments = {"x": "é"}
    function: dict[str, Any] = {"type": "function", "function": {"name": "f", "arguments": arguments}}
    called: dict[str, Any] = {"role": "assistant", "content": "", "tool_calls": [function]}
    result = {"role": "tool", "name": "f", "content": RESULT.content}
    if family == "mistral-nemo":
        function["id"] = result["tool_call_id"] = "000000000"
    if family == "glm4-0414":
        called = {"role": "assistant", "metadata": "f", "content": json.dumps(arguments, ensure_ascii=False)}
        result["role"] = "observation"
    answer = {"role": "assistant", "content": "Two."}
    whole = transformers_ids(
        directory, [{"role": "user", "content": "one?"}, called, result, answer], tools=[WRAPPED]
    )
    assert whole[: len(ids)] == ids
    assert tokenizer.decode(whole[len(ids) :]) == ENDS[family][1]


@pytest.mark.parametrize("family", TALKS)
def test_what_a_checkpoint_keeps_renders_the_same_ids_on_any_day_by_transformers_alone(
    family: str, directory_of: Any
) -> None:
    """The kept chat template has the date and ends with the answer: an export can carry it as it is."""
    directory = directory_of(TEMPLATES[family])
    tokenizer, template = opened(directory)
    definition = json.loads(json.dumps(definition_of(template)))
    assert kept_template("hf", definition, where="the contract") == template
    pair = talk_of(family)
    messages = [{"role": turn.role, "content": turn.content} for turn in (*pair.prompt, pair.chosen)]
    if pair.system:
        messages.insert(0, {"role": "system", "content": pair.system})
    kept = transformers_ids(directory, messages, chat_template=definition["chat_template"])
    assert kept == ids_of(pair, template, tokenizer)
    opens = transformers_ids(
        directory, messages[:-1], chat_template=definition["chat_template"], add_generation_prompt=True
    )
    assert opens == tokenize_responses(pair, template, tokenizer).prompt_ids.tolist()
    # A directory that carries the kept template gives it back unchanged.
    assert opened(directory_of(definition["chat_template"]))[1] == template


@pytest.mark.parametrize("family", TALKS)
def test_closing_tokens_are_those_after_the_text_of_an_answer(family: str, directory_of: Any) -> None:
    tokenizer, template = opened(directory_of(TEMPLATES[family]))
    end = TALKS[family].partition("Second.")[2]
    plain = tokenizer.with_control_tokens(CONTROL_TOKENS)
    own = AutoTokenizer.from_pretrained(plain.name)
    assert num_closing_tokens(template, tokenizer) == len(own(end, add_special_tokens=False)["input_ids"])


# A template of the table -> the family whose published form it is. mistral_v3 writes the system text, which
# Mistral's own chat template leaves out once there is an answer.
OF_THE_TABLE = {
    "llama3": "llama3",
    "gemma2": "gemma2",
    "gemma3": "gemma3",
    "mistral_v1": "mixtral",
    "mistral_v3": "mistral-nemo",
    "intern2": "internlm2",
    "qwen3_thinking": "qwen3",
}


@pytest.mark.parametrize("name", OF_THE_TABLE)
def test_a_template_of_the_table_writes_the_published_text(name: str, directory_of: Any) -> None:
    tokenizer = load_directory(directory_of(""))
    ids = ids_of(talk_of(OF_THE_TABLE[name]), table.TEMPLATES[name], tokenizer)
    assert tokenizer.decode(ids).removesuffix("\n") == TALKS[OF_THE_TABLE[name]]


def test_llama3_of_the_table_is_llama_3s_and_writes_results_as_metas_prompt_format_does(
    directory_of: Any,
) -> None:
    """Llama 3.1's chat template adds dates and writes a result as a JSON string; Meta's document does not."""
    tokenizer = load_directory(directory_of(""))
    ids = ids_of(pair_of(None, "", (ONE, CALL, RESULT), "Two."), table.TEMPLATES["llama3"], tokenizer)
    text = tokenizer.decode(ids)
    assert '<|start_header_id|>ipython<|end_header_id|>\n\n{"r": 2}<|eot_id|>' in text
    assert "Date" not in text


NO_SYSTEM, NO_TOOLS = "has no form for a system message", "has no form for tools"
NO_RESULTS, ONE_CALL = "has no form for results of tools", "has no form for several calls in one answer"
NO_TEXT = "has no form for text beside a call"
SEVERAL = Message("function_call", f"[{CALL.content}, {CALL.content}]")
SAID = Message("function_call", f"so:\n{CALL.content}")
LEFT_OUT = [
    ("phi3", pair_of(SYSTEM, "", (ONE,), "a"), NO_SYSTEM),
    ("mistral-nemo", pair_of(SYSTEM, "", (ONE,), "a"), NO_SYSTEM),
    ("mixtral", pair_of(SYSTEM, "", (ONE,), "a"), "the chat template: no system role"),
    ("gemma2", pair_of(SYSTEM, "", (ONE,), "a"), "the chat template: no system role"),
    ("gemma3", pair_of(None, TOOLS, (ONE,), "a"), NO_TOOLS),
    ("internlm2", pair_of(None, TOOLS, (ONE,), "a"), NO_TOOLS),
    ("deepseek2", pair_of(None, "", (ONE, CALL, RESULT), "a"), NO_RESULTS),
    ("phi3.5", pair_of(None, "", (ONE, CALL, RESULT), "a"), NO_RESULTS),
    ("gemma3", pair_of(None, "", (ONE, CALL, RESULT), "a"), "the chat template: roles must alternate"),
    ("gpt-oss", pair_of(None, TOOLS, (ONE,), SEVERAL), ONE_CALL),
    ("llama3.1", pair_of(None, TOOLS, (ONE,), SEVERAL), "the chat template: single tool-calls"),
    ("llama3.1", pair_of(None, TOOLS, (ONE,), SAID), NO_TEXT),
    ("mistral-nemo", pair_of(None, TOOLS, (ONE,), SAID), NO_TEXT),
]


@pytest.mark.parametrize(("family", "pair", "reason"), LEFT_OUT)
def test_what_a_template_leaves_out_or_refuses_is_refused(
    family: str, pair: Pair, reason: str, directory_of: Any
) -> None:
    tokenizer, template = opened(directory_of(TEMPLATES[family]))
    with pytest.raises(RecordError, match=reason):
        tokenize_responses(pair, template, tokenizer)


@pytest.mark.parametrize("text", ["\nSecond.", "\n\nSecond.\n", "  Second", "\n"])
def test_an_answer_that_joins_the_opener_to_one_token_has_the_ids_of_the_whole(
    text: str, directory_of: Any
) -> None:
    directory = directory_of(TEMPLATES["qwen2.5"])
    tokenizer, template = opened(directory)
    answers = (Message("assistant", text), Message("assistant", "Second."))
    tokens = tokenize_responses(Pair(SYSTEM, "", (ONE,), *answers), template, tokenizer)
    for answer, ids in zip(answers, tokens.response_ids, strict=True):
        messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "one?"}]
        whole = transformers_ids(directory, [*messages, {"role": "assistant", "content": answer.content}])
        assert [*tokens.prompt_ids, *ids, *tokenizer.encode("\n")] == whole


def test_an_opener_that_the_answer_does_not_keep_is_not_of_the_prompt(directory_of: Any) -> None:
    """QwQ and the distilled models of DeepSeek-R1 open an answer with <think>."""
    text = TEMPLATES["internlm2"].replace(
        "'<|im_start|>assistant\\n'", "'<|im_start|>assistant\\n<think>\\n'"
    )
    tokenizer, template = opened(directory_of(text))
    tokens = tokenize_responses(pair_of(None, "", (ONE,), "a"), template, tokenizer)
    assert tokenizer.decode(tokens.prompt_ids.tolist()).endswith("<|im_start|>assistant\n")
    assert tokenizer.decode(tokens.response_ids[0].tolist()) == "a<|im_end|>"


def test_a_prompt_that_changes_with_its_answer_is_refused(directory_of: Any) -> None:
    counted = "{{ messages | length }}" + TEMPLATES["internlm2"]
    with pytest.raises(UserError, match="does not begin a question and its answer with what it writes for"):
        opened(directory_of(counted))
    later = "{{ 'long' if messages | length > 3 }}" + TEMPLATES["internlm2"]
    tokenizer, template = opened(directory_of(later))
    with pytest.raises(RecordError, match="prompt and answer do not begin with its prompt"):
        tokenize_responses(pair_of(None, "", TURNS, "a"), template, tokenizer)


def test_a_date_whose_format_is_computed_is_refused(directory_of: Any) -> None:
    text = "{% set format = '%Y' %}{{ strftime_now(format) }}" + TEMPLATES["internlm2"]
    with pytest.raises(UserError, match="computes the format of today's date"):
        opened(directory_of(text))


def test_forms_are_found_once_for_all_records(directory_of: Any) -> None:
    tokenizer, template = opened(directory_of(TEMPLATES["qwen2.5"]))
    renderer = chat_renderer_of(template, tokenizer)
    assert chat_renderer_of(template, tokenizer) is renderer
    assert renderer.forms is renderer.forms


_TEXTS = st.text(alphabet=st.sampled_from("aé你 \n\t(.0<|>'"), min_size=1, max_size=12)


@pytest.mark.parametrize("family", ["llama3.1", "qwen2.5", "gemma3", "mixtral", "phi3.5", "glm4-0414"])
@settings(max_examples=20, deadline=None)
@given(texts=st.lists(_TEXTS, min_size=4, max_size=4))
def test_any_texts_have_the_ids_of_transformers(family: str, directory_of: Any, texts: list[str]) -> None:
    tokenizer, template, own = _opened_once(family, directory_of)
    roles = ("user", "assistant", "user", "assistant")
    messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]
    turns = (Message("user", texts[0]), Message("assistant", texts[1]), Message("user", texts[2]))
    tokens = tokenize_responses(pair_of(None, "", turns, texts[3]), template, tokenizer)
    ids = [*tokens.prompt_ids, *tokens.response_ids[0]]
    whole = own.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"]
    assert whole[: len(ids)] == ids
    assert tokenizer.decode(whole[len(ids) :]) == ENDS[family][1]


_OPENED: dict[str, Any] = {}


def _opened_once(family: str, directory_of: Any) -> Any:
    if family not in _OPENED:
        directory = directory_of(TEMPLATES[family])
        _OPENED[family] = (*opened(directory), AutoTokenizer.from_pretrained(str(directory)))
    return _OPENED[family]
