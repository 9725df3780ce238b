"""Records of every style to prompts, with and without answers, and back from the rows that are written."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from modellink_rm.config.tokenizer import TokenizerConfig
from modellink_rm.conversation import Message
from modellink_rm.generation.prompts import NotAnswered, Prompt, PromptReader, PromptTokenizer
from modellink_rm.generation.rows import Answer, answer_row
from modellink_rm.handlers import conversation_of, make_handler, prompt_of
from modellink_rm.inference.reader import RecordReader
from modellink_rm.inference.rows import kept_fields
from modellink_rm.records import Record, RecordError
from modellink_rm.templates.encode import tokenize_responses
from modellink_rm.templates.table import TEMPLATES
from modellink_rm.tokenizers.load import load_tokenizer
from tests.unit.handlers.test_fuzz import GOOD

CALL = {"function": {"name": "weather", "arguments": {"place": "Bern"}}}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]
HELLO = Message("user", "hello")
# Records without answers, with the handler that reads them ("" for the default) and their last turn.
PROMPTS: list[tuple[str, dict[str, Any], str]] = [
    ("", {"prompt": "hello"}, "hello"),
    ("", {"prompt": "hello", "system": "be brief"}, "hello"),
    ("", {"prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "hello"}]}, "hello"),
    ("", {"prompt": "\n\nHuman: a\n\nAssistant: b\n\nHuman: hello\n\nAssistant:"}, "hello"),
    ("AlpacaStylePairwiseHandler", {"instruction": "add", "input": "1, 2"}, "add\n1, 2"),
    (
        "SharegptStylePairwiseHandler",
        {
            "conversations": [
                {"from": "system", "value": "s"},
                {"from": "human", "value": "a"},
                {"from": "gpt", "value": "b"},
                {"from": "human", "value": "hello"},
            ]
        },
        "hello",
    ),
    (
        "PromptResponseHandler",
        {
            "prompt": [
                {"role": "user", "content": "how is the weather?"},
                {"role": "assistant", "content": "I look.", "tool_calls": [CALL]},
                {"role": "tool", "content": "rain"},
            ],
            "tools": TOOLS,
        },
        "rain",
    ),
    ("OpenAiMessagesPairwiseHandler", {"prompt": "hello"}, "hello"),
]


def prompt(handler: str, fields: dict[str, Any]) -> Prompt:
    reader = PromptReader(handler or None, None).handler_for(fields)
    return Prompt(reader, prompt_of(reader, fields), ids=None)  # type: ignore[arg-type]


@pytest.mark.parametrize(("handler", "fields", "last"), PROMPTS)
def test_a_record_without_answers_has_its_prompt(handler: str, fields: dict, last: str) -> None:
    found = prompt(handler, fields).conversation
    assert found.responses == ()
    assert found.prompt[-1].content == last


@pytest.mark.parametrize(("handler", "fields", "last"), PROMPTS)
def test_a_row_is_scored_with_the_prompt_that_was_answered(handler: str, fields: dict, last: str) -> None:
    record = {"id": 7, "source": "s", **fields}
    asked = prompt(handler, record)
    answers = [Answer("yes", 1, True), Answer("", 0, True)]
    row = json.loads(json.dumps(answer_row(record, asked, answers, kept_fields(None))))
    assert row["id"] == 7
    trained = handler if handler in ("AlpacaStylePairwiseHandler", "SharegptStylePairwiseHandler") else None
    for reader in (RecordReader(), RecordReader(trained_handler=trained)):
        read = reader(row)
        assert [one.content for one in read.responses] == ["yes", ""]
        assert (read.system, read.prompt) == (asked.conversation.system, asked.conversation.prompt)
        assert json.loads(read.tools or "[]") == json.loads(asked.conversation.tools or "[]")


def test_answers_of_a_pair_and_their_scores_are_left_out() -> None:
    record = {
        "id": 1,
        "prompt": "hello",
        "chosen": "a",
        "rejected": "b",
        "score_chosen": 2.0,
        "score_rejected": 2.0,  # neither is preferred, which is of no concern here
    }
    with pytest.raises(RecordError, match="neither response is preferred"):
        conversation_of(make_handler("OpenAiMessagesPairwiseHandler", None), record)
    asked = prompt("OpenAiMessagesPairwiseHandler", record)
    assert asked.conversation.prompt == (HELLO,)
    row = answer_row(record, asked, [Answer("c", 1, False)], kept_fields(None))
    assert row == {"id": 1, "prompt": "hello", "responses": ["c"], "num_tokens": [1], "ended": [False]}


@pytest.mark.parametrize(
    "call",
    [
        '{"name": "f", "name": "g"}',
        '{"name": "f", "arguments": ' + "[" * 10**5,
        r'{"name": "f", "arguments": {"x": "\ud800"}}',
    ],
)
def test_a_call_that_a_template_without_calls_wrote_as_text_is_text_in_the_row(call: str) -> None:
    turns = [{"from": "human", "value": "a"}, {"from": "function_call", "value": call}]
    turns.append({"from": "observation", "value": "b"})
    asked = prompt("SharegptStylePairwiseHandler", {"conversations": turns})
    row = answer_row({}, asked, [Answer("c", 1, True)], kept_fields(None))
    assert row["prompt"][1] == {"role": "assistant", "content": call}


def test_a_prompt_that_both_answers_begin_with_is_found_without_a_handler() -> None:
    turns = [{"role": "user", "content": "hello"}]
    chosen = [*turns, {"role": "assistant", "content": "a"}]
    rejected = [*turns, {"role": "assistant", "content": "b"}]
    asked = prompt("", {"chosen": chosen, "rejected": rejected})
    assert asked.conversation.prompt == (HELLO,)
    row = answer_row({}, asked, [], kept_fields(None))
    assert row["prompt"] == turns


def test_a_handler_made_of_one_of_this_package_finds_prompts_without_answers(tmp_path: Path) -> None:
    """Of the fields of its answers one is enough, as for the one that it is made of."""
    (tmp_path / "mine.py").write_text(
        "from modellink_rm.handlers.prompt_response import PromptResponseHandler\n\n\n"
        "class Mine(PromptResponseHandler):\n    pass\n"
    )
    assert prompt(f"{tmp_path}/mine.py:Mine", {"prompt": "hello"}).conversation.prompt == (HELLO,)


def test_kept_fields_with_names_of_the_row_get_another_one() -> None:
    record = {"prompt": "hello", "chosen": "a", "id": 3, "ended": "x"}
    asked = prompt("", record)
    row = answer_row(record, asked, [Answer("c", 1, True)], kept_fields("chosen,ended"))
    assert row.pop("responses") == ["c"]
    assert row == {
        "input_chosen": "a",
        "input_ended": "x",
        "prompt": "hello",
        "num_tokens": [1],
        "ended": [True],
    }


@pytest.mark.parametrize("name", ["scores", "margin", "ranks", "ratings"])
def test_what_a_record_says_of_its_own_answers_is_not_said_of_the_new_ones(name: str) -> None:
    record = {"prompt": "hello", "responses": ["a", "b"], name: [1.0, 2.0]}
    answers = [Answer("c", 1, True), Answer("d", 1, True)]
    row = answer_row(record, prompt("", record), answers, kept_fields(None))
    assert row["responses"] == ["c", "d"]
    assert name not in row
    assert row[f"input_{name}"] == [1.0, 2.0]


def test_kept_fields_come_in_one_order_in_every_process() -> None:
    """Seven names, which a set has in another order in nearly every process."""
    names = ("chosen", "conversations", "instruction", "messages", "rejected", "response", "responses")
    record = {"prompt": "hello", **dict.fromkeys(names, "a")}
    asked = prompt("", {"prompt": "hello"})
    row = answer_row(record, asked, [], kept_fields(",".join(names)))
    assert list(row)[: len(names)] == [f"input_{name}" for name in names]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"instruction": "hello"},
            "field 'instruction' is not read by PromptResponseHandler: give --handler",
        ),
        ({"prompt": "a", "messages": [1]}, "field 'messages' is not read by"),
        ({"text": "hello"}, "no prompt: --handler-name says how to read another form"),
        ({"prompt": [{"role": "assistant", "content": "a"}]}, "turns do not alternate"),
    ],
)
def test_a_record_without_a_prompt_is_refused(fields: dict, message: str) -> None:
    with pytest.raises(RecordError) as caught:
        prompt("", fields)
    assert message in str(caught.value)


def test_the_row_of_a_record_that_is_not_answered_has_no_answers_to_score() -> None:
    record = {"id": 1, "prompt": 3, "chosen": "a", "rejected": "b", "error": "e"}
    row = answer_row(record, NotAnswered("file:1: not a text"), [], kept_fields(None))
    assert row == {"id": 1, "prompt": 3, "input_error": "e", "error": "file:1: not a text"}


@pytest.mark.parametrize("name", ["llama2", "glm4", "qwen"])
def test_ids_of_a_prompt_are_those_before_any_answer(name: str, control_directory: Path) -> None:
    tokenizer = load_tokenizer(TokenizerConfig(tokenizer_name_or_path=str(control_directory)))
    template = TEMPLATES[name]
    prompts = PromptTokenizer(reader=PromptReader(None, None), template=template, tokenizer=tokenizer)
    fields = {"prompt": "hello there", "system": "answer briefly"}
    asked = prompts(Record("here", fields))
    assert isinstance(asked, Prompt)
    answered = conversation_of(make_handler("PromptResponseHandler", None), {**fields, "response": "fine"})
    assert asked.ids == tokenize_responses(answered, template, tokenizer).prompt_ids


def test_a_prompt_without_room_for_an_answer_is_refused_with_its_place(control_directory: Path) -> None:
    prompts = PromptTokenizer(
        reader=PromptReader(None, None),
        template=TEMPLATES["llama2"],
        tokenizer=load_tokenizer(TokenizerConfig(tokenizer_name_or_path=str(control_directory))),
        max_prompt_tokens=4,
    )
    found = prompts(Record("file:3", {"prompt": "what is the capital of France"}))
    assert isinstance(found, NotAnswered)
    assert found.message.startswith("file:3: the prompt has ")
    assert found.message.endswith("tokens, and the model leaves 4 beside --max-new-tokens")
    num_tokens = int(found.message.split()[4])
    fits = dataclasses.replace(prompts, max_prompt_tokens=num_tokens)
    assert isinstance(fits(Record("file:3", {"prompt": "what is the capital of France"})), Prompt)


@pytest.mark.parametrize("handler", sorted(GOOD))
def test_prompts_of_every_handler_come_back_from_their_rows(handler: str) -> None:
    asked = prompt(handler, GOOD[handler])
    row = json.loads(
        json.dumps(answer_row(GOOD[handler], asked, [Answer("yes", 1, True)], kept_fields(None)))
    )
    read = RecordReader()(row)
    assert (read.system, read.prompt) == (asked.conversation.system, asked.conversation.prompt)
    assert [one.content for one in read.responses] == ["yes"]
