"""PromptResponseHandler: what is scored, and the records that it refuses."""

import json

import pytest

from modellink_rm.base.errors import UserError
from modellink_rm.conversation import Message, Unranked
from modellink_rm.handlers import make_handler
from modellink_rm.records import RecordError

NAME = "PromptResponseHandler"
QUESTION = (Message("user", "q"),)


def made(record, **map_keys):
    return make_handler(NAME, json.dumps(map_keys))(record)


def message(role, content):
    return {"role": role, "content": content}


def unranked(*texts, system=None, tools="", prompt=QUESTION):
    return Unranked(system, tools, prompt, tuple(Message("assistant", text) for text in texts))


CALL = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": '{"x": 1}'}}]}


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"prompt": "q", "response": "a"}, unranked("a")),
        ({"prompt": "q", "response": message("assistant", "a")}, unranked("a")),
        ({"prompt": "q", "response": [message("assistant", "a")]}, unranked("a")),
        ({"prompt": "q", "responses": ["a", message("assistant", "b"), "c"]}, unranked("a", "b", "c")),
        ({"prompt": "q", "responses": ["a"]}, unranked("a")),
        ({"prompt": "q", "response": None, "responses": ["a"]}, unranked("a")),
        ({"prompt": "q", "response": "a", "system": "s"}, unranked("a", system="s")),
        (
            {"prompt": [message("system", "s"), message("user", "q")], "response": "a"},
            unranked("a", system="s"),
        ),
        (
            {"prompt": [message("system", "s"), message("user", "q")], "response": "a", "system": "s"},
            unranked("a", system="s"),
        ),
        ({"prompt": "q", "response": "a", "tools": [{"name": "f"}]}, unranked("a", tools='[{"name": "f"}]')),
        (
            {"prompt": [message("user", "q"), CALL, message("tool", "2")], "response": "a"},
            unranked(
                "a",
                prompt=(
                    *QUESTION,
                    Message("function_call", '{"name": "f", "arguments": {"x": 1}}'),
                    Message("observation", "2"),
                ),
            ),
        ),
        (
            {"prompt": "q", "response": CALL},
            Unranked(None, "", QUESTION, (Message("function_call", '{"name": "f", "arguments": {"x": 1}}'),)),
        ),
    ],
)
def test_responses_stay_in_the_records_order(record, expected):
    assert made(record) == expected


def test_fields_have_other_names():
    assert made({"question": "q", "completions": ["a", "b"]}, prompt="question", responses="completions") == (
        unranked("a", "b")
    )


def test_unranked_responses_have_neither_ranks_nor_margins():
    found = made({"prompt": "q", "responses": ["a", "b"]})
    assert (found.ranks, found.margins) == ((), None)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"response": "a"}, "field 'prompt' is missing"),
        ({"prompt": "q"}, "field 'response' is missing"),
        ({"prompt": "q", "response": None}, "field 'response' is null"),
        ({"prompt": "q", "response": "a", "responses": ["b"]}, "both 'response' and 'responses'"),
        ({"prompt": "q", "response": 3}, "field 'response' must be a text or a list of messages"),
        ({"prompt": "q", "response": []}, "a response that is not an answer"),
        ({"prompt": "q", "response": message("user", "a")}, "a response that is not an answer"),
        ({"prompt": "q", "responses": []}, "field 'responses' must be a list of responses"),
        ({"prompt": "q", "responses": "a"}, "field 'responses' must be a list of responses"),
        ({"prompt": [], "response": "a"}, "empty prompt"),
        (
            {"prompt": [message("system", "s"), message("user", "q")], "response": "a", "system": "t"},
            "two system messages",
        ),
    ],
)
def test_records_say_what_is_wrong(record, reason):
    with pytest.raises(RecordError) as error:
        made(record)
    assert error.value.reason == reason


def test_one_of_the_two_fields_of_responses_is_needed():
    with pytest.raises(UserError, match="switches off both 'response' and 'responses'"):
        made({}, response="", responses="")
