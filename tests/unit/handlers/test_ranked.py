"""RankedResponsesHandler: records to rankings, and the records that it refuses."""

import json

import pytest

from modellink_rm.conversation import Message, Ranking
from modellink_rm.handlers import make_handler
from modellink_rm.records import RecordError

NAME = "RankedResponsesHandler"


def made(record, **map_keys):
    return make_handler(NAME, json.dumps(map_keys))(record)


def answers(*texts):
    return tuple(Message("assistant", text) for text in texts)


def ranking(texts, ranks, margins=None, **fields):
    places = tuple("abcd".index(text) for text in texts)
    prompt = (Message("user", "q"),)
    return Ranking(None, "", prompt, answers(*texts), ranks, margins, places=places, **fields)


BEST_B = ranking("bac", (1, 2, 3))


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"responses": ["a", "b", "c"], "ranks": [2, 1, 3]}, BEST_B),
        ({"responses": ["a", "b", "c"], "ranks": ["2", 0.5, 9]}, BEST_B),
        ({"responses": ["a", "b", "c"], "ranks": [2, 1, 2]}, ranking("bac", (1, 2, 2))),
        ({"responses": ["a", "b", "c", "d"], "ranks": [3, 1, 1, 7]}, ranking("bcad", (1, 1, 2, 3))),
        ({"responses": ["a", "b", "c"], "ratings": [3, 5, 1.5]}, ranking("bac", (1, 2, 3), (2.0, 3.5))),
        ({"responses": ["a", "b", "c"], "ratings": [3, 5, 5]}, ranking("bca", (1, 1, 2), (0.0, 2.0))),
        ({"responses": ["a", "b"], "ratings": [-1, 0]}, ranking("ba", (1, 2), (1.0,))),
        ({"responses": ["a", "b", "c"], "ranks": [2, 1, 3], "ratings": [1, 1, 1]}, BEST_B),
        ({"responses": ["a", "b"], "ranks": None, "ratings": [0, 1]}, ranking("ba", (1, 2), (1.0,))),
        ({"responses": [{"response": "a", "rank": 2}, {"response": "b", "rank": 1}]}, ranking("ba", (1, 2))),
        (
            {"responses": [{"response": "a", "rating": 2}, {"response": "b", "rating": 4}]},
            ranking("ba", (1, 2), (2.0,)),
        ),
        (
            {"responses": [{"role": "assistant", "content": "a"}, "b", "c"], "ranks": [2, 1, 3]},
            BEST_B,
        ),
    ],
)
def test_responses_are_best_first_with_their_ranks(record, expected):
    assert made({"prompt": "q", **record}) == expected


def test_fields_have_other_names_and_prompts_may_be_messages():
    prompt = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
    record = {"instruction": prompt, "completions": [{"text": "a", "score": 1}, {"text": "b", "score": 2}]}
    names = {"prompt": "instruction", "responses": "completions", "response": "text", "rating": "score"}
    found = made({**record, "from": "here"}, **names, source="from")
    assert found == Ranking(
        "s", "", (Message("user", "q"),), answers("b", "a"), (1, 2), (1.0,), source="here", places=(1, 0)
    )


TOOLS = [{"name": "search"}]


@pytest.mark.parametrize(
    ("name", "record", "keys"),
    [
        (NAME, {"responses": ["a", "b"], "ranks": [1, 2], "tools": TOOLS}, {}),
        (NAME, {"responses": ["a", "b"], "ranks": [1, 2], "functions": TOOLS}, {"tools": "functions"}),
        (
            "NectarResponsesHandler",
            {"answers": [{"answer": "a", "rank": 1}, {"answer": "b", "rank": 2}], "tools": TOOLS},
            {},
        ),
    ],
)
def test_tools_of_a_record_are_kept(name, record, keys):
    found = make_handler(name, json.dumps(keys))({"prompt": "q", **record})
    assert json.loads(found.tools) == TOOLS


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"responses": ["a", "b"], "ranks": [1, 2], "prompt": None}, "field 'prompt' is null"),
        ({"ranks": [1, 2]}, "field 'responses' is missing"),
        ({"responses": "a", "ranks": [1, 2]}, "field 'responses' must be a list of responses"),
        ({"responses": ["a"], "ranks": [1]}, "fewer than two responses"),
        ({"responses": ["a", "b"]}, "neither ranks nor ratings of the responses"),
        ({"responses": ["a", {"response": "b", "rank": 1}]}, "neither ranks nor ratings of the responses"),
        ({"responses": ["a", "b"], "ranks": [1]}, "field 'ranks' has not one number for each response"),
        ({"responses": ["a", "b"], "ranks": 1}, "field 'ranks' must be a list of numbers"),
        ({"responses": ["a", "b"], "ranks": [1, True]}, "field 'ranks' must be a number"),
        ({"responses": ["a", "b"], "ranks": [1, None]}, "field 'ranks' is null"),
        # A margin of float32 would be infinite.
        ({"responses": ["a", "b"], "ratings": [1, 3e38]}, "field 'ratings' must be a number up to 1e+38"),
        ({"responses": ["a", "b"], "ratings": [1, 10**400]}, "field 'ratings' must be a number up to 1e+38"),
        ({"responses": ["a", "b"], "ratings": [1, "nan"]}, "field 'ratings' must be a number up to 1e+38"),
        ({"responses": ["a", "b"], "ranks": [1, 1]}, "neither response is preferred"),
        ({"responses": ["a", 3], "ranks": [1, 2]}, "field 'response 2' must be a text or a list of messages"),
        (
            {"responses": ["a", {"role": "user", "content": "b"}], "ranks": [1, 2]},
            "a response that is not an answer",
        ),
    ],
)
def test_records_say_what_is_wrong(record, reason):
    with pytest.raises(RecordError) as error:
        made({"prompt": "q", **record})
    assert error.value.reason == reason
