"""Lists of messages in every arrangement, and the pairs they mean, written by hand."""

import pytest

from modellink_rm.conversation import Message, Pair
from modellink_rm.handlers import make_handler, prompt_of
from modellink_rm.records import RecordError
from tests.unit.handlers.conversations import MESSAGES, ONE_TURN, A, B, Q, assistant, made, message, user


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": [Q], "chosen": [A], "rejected": [B]},  # TRL, conversational, explicit prompt
        {"chosen": [Q, A], "rejected": [Q, B]},  # TRL, conversational, implicit prompt
        {"prompt": None, "chosen": [Q, A], "rejected": [Q, B]},
        {"prompt": "q", "chosen": "a", "rejected": "b"},  # TRL, standard
        {"prompt": [Q], "chosen": A, "rejected": B},  # XTuner
        {"prompt": "q", "chosen": [Q, A], "rejected": [Q, B]},
        {"prompt": [Q], "chosen": [Q, A], "rejected": "b"},
        {"prompt": [message("user", [{"type": "text", "text": "q"}])], "chosen": [A], "rejected": [B]},
    ],
)
def test_messages_in_every_arrangement_are_the_same_pair(record):
    assert made(MESSAGES, record) == ONE_TURN


def test_messages_with_system_turns_tools_and_calls():
    call = {"function": {"name": "f", "arguments": '{"x": 1}'}, "type": "function", "id": "1"}
    history = [
        message("developer", "s"),
        Q,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        message("tool", "2"),
    ]
    record = {"tools": [{"name": "f"}], "chosen": [*history, A], "rejected": [*history, B]}
    turns = (
        user("q"),
        Message("function_call", '{"name": "f", "arguments": {"x": 1}}'),
        Message("observation", "2"),
    )
    assert made(MESSAGES, record) == Pair("s", '[{"name": "f"}]', turns, assistant("a"), assistant("b"))


@pytest.mark.parametrize("name", ["reasoning_content", "thinking"])
def test_thoughts_beside_an_answer_are_refused_and_those_of_earlier_answers_left_out(name):
    thought = {**A, name: "so"}
    record = {
        "prompt": [Q, thought, Q],
        "chosen": [{**A, name: ""}],
        "rejected": [Q, thought, Q, {**B, name: None}],
    }
    assert made(MESSAGES, record).rejected == assistant("b")
    for handler, answers in (
        (MESSAGES, {"chosen": [Q, thought, Q, thought], "rejected": "b"}),
        ("PromptResponseHandler", {"response": thought}),
    ):
        with pytest.raises(RecordError, match=f"thoughts beside an answer: {name!r} of"):
            made(handler, {**record, **answers} if handler == MESSAGES else {"prompt": "q", **answers})


@pytest.mark.parametrize(
    ("handler", "fields"),
    [
        ("PromptResponseHandler", {"prompt": "q", "response": {**A, "thinking": "so"}}),
        ("PromptResponseHandler", {"prompt": "q", "responses": ["a", {**A, "thinking": "so"}]}),
        (MESSAGES, {"chosen": [Q, {**A, "thinking": "so"}], "rejected": [Q, B]}),
    ],
)
def test_a_prompt_is_read_whatever_thoughts_are_beside_its_answers(handler, fields):
    assert prompt_of(make_handler(handler, None), fields).prompt == (user("q"),)


@pytest.mark.parametrize("content", ["", None])
def test_a_call_in_the_form_before_tool_calls_is_read(content):
    call = {"name": "f", "arguments": '{"x": 1}'}
    answer = {"role": "assistant", "content": content, "function_call": call, "tool_calls": None}
    pair = made(MESSAGES, {"prompt": "q", "chosen": [answer], "rejected": "b"})
    assert pair.chosen == Message("function_call", '{"name": "f", "arguments": {"x": 1}}')


@pytest.mark.parametrize("has_system", [(True, False), (False, True), (True, True)])
@pytest.mark.parametrize("prompt", ["q", [Q]])
def test_a_system_message_of_a_prompt_or_of_both_answers_is_read(prompt, has_system):
    first = message("system", "s")
    turns = [message("user", prompt)] if isinstance(prompt, str) else prompt
    of_prompt, of_answers = ([first] if has else [] for has in has_system)
    record = {"prompt": [*of_prompt, *turns] if of_prompt else prompt}
    for side, answer in (("chosen", A), ("rejected", B)):
        record[side] = [*of_answers, *turns, answer]
    assert made(MESSAGES, record) == Pair("s", "", (user("q"),), assistant("a"), assistant("b"))


def test_a_prompt_with_its_system_message_may_stand_in_one_list_alone():
    prompt = [message("system", "s"), Q]
    pair = made(MESSAGES, {"prompt": prompt, "chosen": [*prompt, A], "rejected": "b"})
    assert pair == Pair("s", "", (user("q"),), assistant("a"), assistant("b"))


def test_equal_answers_leave_the_prompt_before_them():
    assert made(MESSAGES, {"chosen": [Q, A], "rejected": [Q, A]}).prompt == (user("q"),)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"chosen": [A]}, "field 'rejected' is missing"),
        ({"chosen": [A], "rejected": [B]}, "empty prompt"),
        ({"chosen": [], "rejected": []}, "empty prompt"),
        ({"prompt": [], "chosen": "a", "rejected": "b"}, "empty prompt"),
        ({"prompt": [Q, A], "chosen": [A], "rejected": [B]}, "the conversation does not end with a turn"),
        ({"prompt": [Q, Q, Q], "chosen": [A], "rejected": [B]}, "turns do not alternate"),
        (
            {"chosen": [Q, A, Q, A], "rejected": [message("user", "other"), B]},
            "empty prompt",
        ),
        ({"chosen": [Q, A, Q, A], "rejected": [Q, B]}, "field 'chosen' must be one answer after the prompt"),
        ({"prompt": [Q], "chosen": [Q], "rejected": [B]}, "field 'chosen' is not an answer"),
        (
            {"prompt": "q", "chosen": 3, "rejected": "b"},
            "field 'chosen' must be a text or a list of messages",
        ),
        ({"prompt": [message("bot", "q")], "chosen": "a", "rejected": "b"}, "a message with an unknown role"),
        ({"prompt": ["q"], "chosen": "a", "rejected": "b"}, "not a message"),
        (
            {"prompt": [message("user", None)], "chosen": "a", "rejected": "b"},
            "'content' of a message is not",
        ),
        ({"prompt": [{"role": "user"}], "chosen": "a", "rejected": "b"}, "'content' of a message is missing"),
        (
            {"prompt": [Q, message("system", "s")], "chosen": "a", "rejected": "b"},
            "a system message that is not the first",
        ),
        (
            {"prompt": "q", "chosen": [message("system", "s"), A], "rejected": "b"},
            "chosen and rejected have different system messages",
        ),
        (
            {
                "prompt": [message("system", "p"), Q],
                "chosen": [message("system", "s"), A],
                "rejected": [message("system", "s"), B],
            },
            "the prompt and an answer have different system messages",
        ),
        (
            {"prompt": "q", "chosen": {"role": "assistant", "tool_calls": [{}]}, "rejected": "b"},
            "a tool call without a name",
        ),
        (
            {
                "prompt": "q",
                "chosen": {
                    "role": "assistant",
                    "tool_calls": [{"type": "tool_use", "name": "f", "input": {"x": 1}}],
                },
                "rejected": "b",
            },
            "a tool call whose arguments have another name",
        ),
        (
            {
                "prompt": "q",
                "chosen": {
                    "role": "assistant",
                    "function_call": {"name": "f", "arguments": '{"x": 1, "x": 2}'},
                },
                "rejected": "b",
            },
            "an object with a key twice",
        ),
    ],
)
def test_messages_say_what_is_wrong(record, reason):
    with pytest.raises(RecordError) as error:
        made(MESSAGES, record)
    assert error.value.reason.startswith(reason)


NAMED = {"name": "f", "arguments": {"x": 1}}


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        ({"function": {"name": "f"}, "arguments": {"x": 1}}, "a tool call whose arguments have another"),
        ({"function": {"name": "f"}, "input": {"x": 1}}, "a tool call whose arguments have another"),
        ({**NAMED, "parameters": {"y": 2}}, "a tool call with arguments of two names"),
        ({"function": {**NAMED, "input": {"y": 2}}, "id": "1"}, "a tool call with arguments of two names"),
        ({"function": NAMED, "arguments": {"y": 2}}, "a tool call with arguments of two names"),
    ],
)
def test_no_arguments_of_a_tool_call_are_left_out(call, reason):
    with pytest.raises(RecordError) as error:
        made(MESSAGES, {"prompt": "q", "chosen": {**A, "tool_calls": [call]}, "rejected": "b"})
    assert error.value.reason.startswith(reason)


def test_arguments_are_one_beside_what_else_tables_have_of_a_call():
    call = {"id": None, "input": None, "status": "done", "function": {**NAMED, "parameters": None}}
    pair = made(MESSAGES, {"prompt": "q", "chosen": {**A, "tool_calls": [call]}, "rejected": "b"})
    assert pair.chosen.content.endswith('{"name": "f", "arguments": {"x": 1}}')


ANSWERED = {
    MESSAGES: {"chosen": "a", "rejected": "b"},
    "PromptResponseHandler": {"response": "a"},
    "RankedResponsesHandler": {"responses": ["a", "b"], "ranks": [1, 2]},
    "RatedResponseHandler": {"response": "a", "helpfulness": 1},
    "StepwiseHandler": {"completions": ["a"]},
}


@pytest.mark.parametrize("handler", list(ANSWERED))
def test_a_system_field_beside_another_system_message_is_refused(handler):
    record = {"prompt": [message("system", "s"), Q], **ANSWERED[handler]}
    assert made(handler, {**record, "system": "s"}, system="system").system == "s"
    with pytest.raises(RecordError, match="two system messages: field 'system' and the first message differ"):
        made(handler, {**record, "system": "t"}, system="system")
