import json

import pytest

from modellink_rm.base.errors import UserError
from modellink_rm.conversation import Message, Pair
from modellink_rm.handlers import make_handler, missing_fields
from modellink_rm.records import RecordError

ALPACA = "AlpacaStylePairwiseHandler"
SHAREGPT = "SharegptStylePairwiseHandler"


def alpaca(record, **map_keys):
    return make_handler(ALPACA, json.dumps(map_keys))({"chosen": "good", "rejected": "bad", **record})


def sharegpt(record, **map_keys):
    answers = {"chosen": {"from": "gpt", "value": "good"}, "rejected": {"from": "gpt", "value": "bad"}}
    return make_handler(SHAREGPT, json.dumps(map_keys))(answers | record)


def human(text):
    return {"from": "human", "value": text}


def gpt(text):
    return {"from": "gpt", "value": text}


def user(text):
    return Message("user", text)


def assistant(text):
    return Message("assistant", text)


def test_alpaca_defaults():
    pair = alpaca(
        {"instruction": "q", "input": "x", "output": "unused", "system": "unused", "history": "unused"}
    )
    assert pair == Pair(None, "", (user("q\nx"),), assistant("good"), assistant("bad"))


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"instruction": "q", "input": ""}, "q"),
        ({"instruction": "q", "input": None}, "q"),
        ({"instruction": "q"}, "q"),
        ({"instruction": "", "input": "x"}, "x"),
        ({"instruction": None, "input": "x"}, "x"),
    ],
)
def test_alpaca_joins_prompt_and_query_where_non_empty(record, expected):
    assert alpaca(record).prompt == (user(expected),)


def test_alpaca_reads_the_fields_that_map_keys_names():
    record = {
        "question": "q",
        "input": "unused",
        "who": "s",
        "before": [["q0", "a0"]],
        "good": "c",
        "bad": "r",
    }
    keys = {"prompt": "question", "query": "", "system": "who", "history": "before"}
    pair = alpaca(record, **keys, chosen="good", rejected="bad")
    turns = (user("q0"), assistant("a0"), user("q"))
    assert pair == Pair("s", "", turns, assistant("c"), assistant("r"))


@pytest.mark.parametrize("system", ["", None])
def test_an_empty_system_text_counts_as_missing(system):
    assert alpaca({"instruction": "q", "system": system}, system="system").system is None
    assert sharegpt({"conversations": [human("q")], "system": system}, system="system").system is None


@pytest.mark.parametrize("history", [None, []])
def test_alpaca_without_earlier_turns(history):
    assert alpaca({"instruction": "q", "history": history}, history="history").prompt == (user("q"),)


def test_alpaca_takes_answers_in_a_list():
    assert alpaca({"instruction": "q", "chosen": ["c"], "rejected": ["r"]}).chosen == assistant("c")
    handler = make_handler(ALPACA, None)
    pair = handler({"instruction": "q", "output": ["c", "r"]})
    assert (pair.chosen, pair.rejected) == (assistant("c"), assistant("r"))


def test_empty_answers_are_answers():
    assert alpaca({"instruction": "q", "chosen": ""}).chosen == assistant("")
    assert sharegpt({"conversations": [human("q")], "chosen": gpt("")}).chosen == assistant("")


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (
            {},
            "field 'instruction' is missing; AlpacaStylePairwiseHandler needs instruction, chosen, rejected",
        ),
        ({"instruction": "", "input": ""}, "field 'instruction' is empty"),
        ({"instruction": 3}, "field 'instruction' must be a text"),
        ({"instruction": "q", "input": ["x"]}, "field 'input' must be a text"),
        ({"instruction": "q", "chosen": None}, "field 'chosen' is null"),
        ({"instruction": "q", "rejected": 1.5}, "field 'rejected' must be a text"),
        ({"instruction": "q", "chosen": ["a", "b"]}, "field 'chosen' must be a text"),
        ({"instruction": "q", "chosen": {"value": "x"}}, "field 'chosen' must be a text"),
        ({"instruction": "q", "history": "x"}, "field 'history' must be a list of"),
        ({"instruction": "q", "history": [["a"]]}, "field 'history' must be a list of"),
        ({"instruction": "q", "history": [["a", None]]}, "field 'history' must be a list of"),
        ({"instruction": "q", "history": {"a": 1}}, "field 'history' must be a list of"),
    ],
)
def test_alpaca_says_what_is_wrong(record, message):
    with pytest.raises(RecordError, match=message):
        alpaca(record, history="history")


def test_alpaca_names_a_missing_answer():
    with pytest.raises(
        RecordError, match=r"'rejected' is missing; .* needs question, chosen, rejected"
    ) as error:
        make_handler(ALPACA, '{"prompt": "question"}')({"question": "q", "chosen": "c"})
    assert error.value.reason == "field 'rejected' is missing"


@pytest.mark.parametrize("output", [["a"], ["a", "b", "c"], ["a", None]])
def test_alpaca_refuses_lists_that_are_no_pair(output):
    with pytest.raises(RecordError, match="a list of two texts"):
        make_handler(ALPACA, None)({"instruction": "q", "output": output})


def test_sharegpt_defaults():
    turns = [{"from": "system", "value": "s"}, human("q1"), gpt("a1"), human("q2")]
    pair = sharegpt({"conversations": turns, "tools": "unused"})
    expected = (user("q1"), assistant("a1"), user("q2"))
    assert pair == Pair("s", "", expected, assistant("good"), assistant("bad"))


def test_sharegpt_calls_and_observations():
    turns = [
        human("q"),
        {"from": "function_call", "value": "f(1)"},
        {"from": "observation", "value": "2"},
    ]
    pair = sharegpt({"conversations": turns, "rejected": {"from": "function_call", "value": "f(2)"}})
    roles = [message.role for message in (*pair.prompt, pair.chosen, pair.rejected)]
    assert roles == ["user", "function_call", "observation", "assistant", "function_call"]


def test_sharegpt_with_the_tags_of_openai():
    tags = {
        "role_tag": "role",
        "content_tag": "content",
        "user_tag": "user",
        "assistant_tag": "assistant",
    }
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
    record = {
        "messages": messages,
        "chosen": {"role": "assistant", "content": "c"},
        # A tag that is not listed keeps its default.
        "rejected": {"role": "function_call", "content": "r"},
    }
    pair = sharegpt(record, messages="messages", tags=tags)
    assert pair == Pair("s", "", (user("q"),), assistant("c"), Message("function_call", "r"))


def test_sharegpt_reads_tool_calls_of_messages_in_openai_s_form():
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    call = {"type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    called = {"role": "assistant", "content": "", "tool_calls": [call]}
    result = {"role": "tool", "content": "2"}
    record = {
        "messages": [{"role": "user", "content": "q"}, called, result],
        "chosen": {"role": "assistant", "content": None, "tool_calls": [call, call]},
        "rejected": {"role": "assistant", "content": "r", "tool_calls": []},
    }
    pair = sharegpt(record, messages="messages", tags={**tags, "observation_tag": "tool"})
    one = '{"name": "f", "arguments": {"x": 1}}'
    assert pair.prompt[1:] == (Message("function_call", one), Message("observation", "2"))
    assert (pair.chosen, pair.rejected) == (Message("function_call", f"[{one}, {one}]"), assistant("r"))


@pytest.mark.parametrize("name", ["reasoning_content", "thinking"])
def test_sharegpt_refuses_thoughts_beside_an_answer_and_leaves_out_those_of_earlier_ones(name):
    thought = {**gpt("a"), name: "so"}
    record = {"conversations": [human("q"), thought, human("r")]}
    assert sharegpt({**record, "chosen": {**gpt("c"), name: ""}}).prompt[1] == assistant("a")
    for answer in (thought, [thought]):
        with pytest.raises(RecordError, match=f"thoughts beside an answer: {name!r} of field 'rejected'"):
            sharegpt({**record, "rejected": answer})


def test_sharegpt_system_message_comes_before_the_system_field():
    turns = [{"from": "system", "value": "first"}, human("q")]
    record = {"conversations": turns, "about": "second"}
    assert sharegpt(record, system="about").system == "first"
    assert sharegpt({**record, "conversations": [human("q")]}, system="about").system == "second"


@pytest.mark.parametrize(
    ("tools", "expected"),
    [("f(x)", "f(x)"), ([{"name": "查"}], '[{"name": "查"}]'), (None, ""), ([], ""), ("[]", ""), ("", "")],
)
def test_sharegpt_tools_are_text(tools, expected):
    assert sharegpt({"conversations": [human("q")], "tools": tools}, tools="tools").tools == expected


def test_sharegpt_takes_answers_that_are_text():
    pair = sharegpt({"conversations": [human("q")], "chosen": "c", "rejected": [gpt("r")]})
    assert (pair.chosen, pair.rejected) == (assistant("c"), assistant("r"))


@pytest.mark.parametrize(
    ("record", "message", "reason"),
    [
        ({}, "'conversations' is missing; .* needs conversations, chosen, rejected", None),
        ({"conversations": None}, "field 'conversations' is null", None),
        ({"conversations": "q"}, "must be a list of messages", None),
        ({"conversations": []}, "empty conversation", "empty conversation"),
        ({"conversations": [{"from": "system", "value": "s"}]}, "empty conversation", "empty conversation"),
        ({"conversations": [human("q"), gpt("a")]}, "2 turns, an even number", None),
        ({"conversations": [gpt("a")]}, "turn 1 is by 'gpt', expected", "turns do not alternate"),
        ({"conversations": [human("q"), human("q"), human("q")]}, "turn 2 is by 'human'", None),
        (
            {"conversations": [human("q"), {"from": "bot", "value": "a"}, human("q")]},
            "turn 2 is by 'bot'",
            None,
        ),
        ({"conversations": [human(None)]}, "'value' of turn 1 is not a text", None),
        ({"conversations": [{"from": "human"}]}, "'value' of turn 1 is missing", None),
        ({"conversations": [{"value": "q"}]}, "'from' of turn 1 is missing", None),
        ({"conversations": ["q"]}, "turn 1 must be an object with 'from' and 'value'", None),
        ({"conversations": [human([{"type": "text"}])]}, "'value' of turn 1 is not a text", None),
        ({"conversations": [human("q")], "chosen": human("x")}, "field 'chosen' is not an answer", None),
        (
            {"conversations": [human("q")], "chosen": {"from": "gpt"}},
            "'value' of field 'chosen' is missing",
            None,
        ),
        ({"conversations": [human("q")], "chosen": 3}, "field 'chosen' must be an object", None),
        (
            {"conversations": [human("q")], "rejected": [gpt("a"), gpt("b")]},
            "field 'rejected' must be an obj",
            None,
        ),
        ({"conversations": [human("q")], "tools": 3}, "field 'tools' must be a text", None),
        ({"conversations": [human("q")], "system": 3}, "field 'system' must be a text", None),
    ],
)
def test_sharegpt_says_what_is_wrong(record, message, reason):
    with pytest.raises(RecordError, match=message) as error:
        sharegpt(record, tools="tools", system="system")
    if reason is not None:
        assert error.value.reason == reason


@pytest.mark.parametrize(
    ("handler", "map_keys", "message"),
    [
        (
            ALPACA,
            '{"promt": "q"}',
            "unknown key of --map-keys 'promt'; did you mean prompt.*choices: chosen, history",
        ),
        (
            ALPACA,
            '{"instruction": "q"}',
            "'instruction' is not a key but the field that the key 'prompt' reads by default",
        ),
        (ALPACA, '{"messages": "q"}', "unknown key of --map-keys 'messages'"),
        (ALPACA, '{"chosen": "a", "chosen": "b"}', "--map-keys names the key 'chosen' twice"),
        (ALPACA, '{"chosen": "a", "rejected": "a"}', "two responses from one field, 'a'"),
        (ALPACA, '{"chosen": "rejected"}', "two responses from one field, 'rejected'"),
        (ALPACA, "[" * 100_000, "--map-keys must be a JSON object"),
        (ALPACA, '{"tags": {}}', "unknown key of --map-keys 'tags'"),
        (SHAREGPT, '{"prompt": "q"}', "unknown key of --map-keys 'prompt'.*tags"),
        (
            SHAREGPT,
            '{"tags": {"rol_tag": "x"}}',
            "unknown key of --map-keys tags 'rol_tag'; did you mean role_tag",
        ),
        (SHAREGPT, '{"tags": "x"}', "'tags' must be a JSON object"),
        (SHAREGPT, '{"tags": {"user_tag": "x", "assistant_tag": "x"}}', "'x' names both"),
        (ALPACA, '{"prompt": 3}', "'prompt' must be the name of a field"),
        (ALPACA, '{"chosen": ""}', "'chosen' cannot be switched off"),
        (SHAREGPT, '{"messages": null}', "'messages' cannot be switched off"),
        (ALPACA, "{broken", "must be a JSON object"),
        (ALPACA, "[]", "must be a JSON object"),
        ("AlpacaStyleHandler", None, "unknown --handler-name 'AlpacaStyleHandler'.*choices: Alpaca"),
    ],
)
def test_a_wrong_flag_is_an_error_that_lists_the_choices(handler, map_keys, message):
    with pytest.raises(UserError, match=message):
        make_handler(handler, map_keys)


def test_fields_of_map_keys_that_a_record_lacks():
    keys = '{"prompt": "a", "query": "b", "system": "", "tags": {"role_tag": "role"}}'
    assert missing_fields(keys, {"a": 1}) == ["b"]
    assert missing_fields(None, {}) == []
