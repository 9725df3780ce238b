"""The forms in which a chat template takes system texts, tools, calls and observations.

Chat templates differ in them, and one that does not know a form leaves it out without a word. So each form
is tried on a short conversation, and what a template would leave out is refused.
"""

import contextlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from modellink_rm.conversation import Message
from modellink_rm.records import RecordError
from modellink_rm.templates.calls import Call, text_and_calls
from modellink_rm.templates.tools import NO_FUNCTIONS, listed_tools

ChatMessage = dict[str, Any]
# Renders messages and tools; raises RecordError where the template refuses them.
Render = Callable[[list[ChatMessage], list[Any] | None], str]

_TEXT, _NAME, _OTHER_NAME = "some0text", "some0name", "other0name"
_QUESTION, _ANSWER = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
_TURNS = ("first0turn", "second0turn", "third0turn", "fourth0turn")


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatForms:
    """What a chat template can write, and how it takes it.

    Attributes:
        system: it writes a system message, or refuses it itself.
        several_turns: it writes all turns of a longer conversation, or refuses that itself.
        tools: "argument" of the rendering, "system" for a key of the system message (GLM-4), or "" if it has
            no form for them.
        system_beside_tools: it writes a system message beside tools, or refuses it itself.
        calls: "tool_calls" of a message, "metadata" for a message with the function's name there and the
            arguments as its text (GLM), or "" for a text as it is in the record.
        call_ids: a call needs an id, and its result the same (Mistral).
        several_calls: several calls in one answer.
        text_beside_calls: text in an answer that calls.
        observation: role of the results of calls, "" if it leaves them out.
    """

    system: bool
    several_turns: bool
    tools: str
    system_beside_tools: bool
    calls: str
    call_ids: bool
    several_calls: bool
    text_beside_calls: bool
    observation: str


def find_forms(render: Render) -> ChatForms:
    """The forms of a template, by what it writes of short conversations."""
    system: ChatMessage = {"role": "system", "content": _TEXT}
    tools = _form_of_tools(render)
    calls, call_ids = _form_of_calls(render)
    one, two = _called(_NAME), _called(_OTHER_NAME)

    def answered(*calls_made: Call, text: str = "") -> list[ChatMessage]:
        return [_QUESTION, *_call_messages(text, list(calls_made), calls, call_ids=call_ids, num_before=0)]

    return ChatForms(
        system=_writes(render, [system, _QUESTION, _ANSWER], _TEXT, if_refused=True),
        several_turns=_writes_all_turns(render),
        tools=tools,
        system_beside_tools=not tools or _writes_system_beside_tools(render, tools),
        calls=calls,
        call_ids=call_ids,
        several_calls=not calls or _writes(render, answered(one, two), _OTHER_NAME, if_refused=True),
        text_beside_calls=not calls or _writes(render, answered(one, text=_TEXT), _TEXT, if_refused=True),
        observation=_role_of_observations(render, answered(one), calls, call_ids=call_ids),
    )


def chat_messages(system: str | None, turns: Sequence[Message], forms: ChatForms) -> list[ChatMessage]:
    """The messages of a conversation as the template takes them.

    Calls are counted from 0 over the conversation; the number is the id of a call where one is needed.

    Raises:
        RecordError: the template leaves a part of the conversation out.
    """
    if system and not forms.system:
        raise RecordError("the chat template has no form for a system message")
    if len(turns) > 2 and not forms.several_turns:
        raise RecordError("the chat template leaves out turns of a longer conversation")
    messages: list[ChatMessage] = [{"role": "system", "content": system}] if system else []
    num_calls = 0
    last_call: Call | None = None
    for turn in turns:
        if turn.role == "observation":
            messages.append(_observation(turn.content, last_call, num_calls, forms))
        elif turn.role == "function_call" and forms.calls:
            text, calls = text_and_calls(turn.content)
            messages += _answer_with_calls(text, calls, num_calls, forms)
            num_calls += len(calls)
            last_call = calls[-1] if calls else None
        else:
            role = "user" if turn.role == "user" else "assistant"
            messages.append({"role": role, "content": turn.content})
    return messages


def with_tools(
    messages: list[ChatMessage], tools: str, forms: ChatForms
) -> tuple[list[ChatMessage], list[Any] | None]:
    """The messages, and the tools if they are an argument of the rendering.

    Args:
        tools: a JSON list of functions, each bare or wrapped in an object of type function; "" for none.

    Raises:
        RecordError: the template has no form for tools, or they are not such a list.
    """
    if not tools:
        return messages, None
    if not forms.tools:
        raise RecordError("the chat template has no form for tools")
    wrapped = _wrapped_tools(tools)
    has_system = bool(messages) and messages[0]["role"] == "system"
    if has_system and not forms.system_beside_tools:
        raise RecordError("the chat template leaves out a system message beside tools")
    if forms.tools == "argument":
        return messages, wrapped
    first, rest = {"role": "system", "content": ""}, messages
    if has_system:
        first, rest = messages[0], messages[1:]
    return [{**first, "tools": wrapped}, *rest], None


def _wrapped_tools(tools: str) -> list[Any]:
    value = listed_tools(tools)
    if not all(isinstance(tool, dict) for tool in value):
        raise RecordError(NO_FUNCTIONS)
    # A bare function has its name on top; anything else is in the publisher's own form.
    return [_wrapped(tool) if "name" in tool and "function" not in tool else tool for tool in value]


def _wrapped(function: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": function}


def _answer_with_calls(text: str, calls: list[Call], num_before: int, forms: ChatForms) -> list[ChatMessage]:
    if len(calls) > 1 and not forms.several_calls:
        raise RecordError("the chat template has no form for several calls in one answer")
    if calls and text and not forms.text_beside_calls:
        raise RecordError("the chat template has no form for text beside a call")
    return _call_messages(text, calls, forms.calls, call_ids=forms.call_ids, num_before=num_before)


def _call_messages(
    text: str, calls: list[Call], form: str, *, call_ids: bool, num_before: int
) -> list[ChatMessage]:
    """An answer that calls, in one message or, with metadata, one for the text and one for each call."""
    if not calls:
        return [{"role": "assistant", "content": text}]
    if form == "metadata":
        said = [{"role": "assistant", "content": text}] if text else []
        return said + [
            {
                "role": "assistant",
                "metadata": call.name,
                "content": json.dumps(call.arguments, ensure_ascii=False),
            }
            for call in calls
        ]
    written = []
    for number, call in enumerate(calls, start=num_before):
        call_id = {"id": _call_id(number)} if call_ids else {}
        function = {"name": call.name, "arguments": call.arguments}
        written.append({"type": "function", **call_id, "function": function})
    return [{"role": "assistant", "content": text, "tool_calls": written}]


def _observation(content: str, call: Call | None, num_calls: int, forms: ChatForms) -> ChatMessage:
    if not forms.observation:
        raise RecordError("the chat template has no form for results of tools")
    message = {"role": forms.observation, "content": content}
    if call is not None and forms.calls == "tool_calls":
        message["name"] = call.name
        if forms.call_ids:
            message["tool_call_id"] = _call_id(num_calls - 1)
    return message


def _call_id(number: int) -> str:
    """Nine characters, as Mistral's templates require."""
    return f"{number:09d}"


def _called(name: str) -> Call:
    return Call(name, {"x": 1})


def _form_of_calls(render: Render) -> tuple[str, bool]:
    """(`calls`, `call_ids`) of `ChatForms`."""
    for form, call_ids in (("tool_calls", False), ("tool_calls", True), ("metadata", False)):
        messages = _call_messages("", [_called(_NAME)], form, call_ids=call_ids, num_before=0)
        if _writes(render, [_QUESTION, *messages], _NAME, if_refused=False):
            return form, call_ids
    return "", False


def _writes_all_turns(render: Render) -> bool:
    roles = ("user", "assistant", "user", "assistant")
    turns: list[ChatMessage] = [
        {"role": role, "content": text} for role, text in zip(roles, _TURNS, strict=True)
    ]
    return all(_writes(render, turns, text, if_refused=True) for text in _TURNS)


_TOOLS = [_wrapped({"name": _NAME, "description": "d", "parameters": {"type": "object", "properties": {}}})]


def _writes_system_beside_tools(render: Render, form: str) -> bool:
    """Whether it writes both; of one form of tools, see `ChatForms`."""
    system: ChatMessage = {"role": "system", "content": _TEXT}
    if form == "system":
        system["tools"] = _TOOLS
    tools = _TOOLS if form == "argument" else None
    messages = [system, _QUESTION, _ANSWER]
    return all(_writes(render, messages, text, tools=tools, if_refused=True) for text in (_TEXT, _NAME))


def _form_of_tools(render: Render) -> str:
    if _writes(render, [_QUESTION, _ANSWER], _NAME, tools=_TOOLS, if_refused=True):
        return "argument"
    message = {"role": "system", "content": "", "tools": _TOOLS}
    return "system" if _writes(render, [message, _QUESTION, _ANSWER], _NAME, if_refused=False) else ""


def _role_of_observations(render: Render, called: list[ChatMessage], calls: str, *, call_ids: bool) -> str:
    usual, other = ("observation", "tool") if calls == "metadata" else ("tool", "observation")
    for role, if_refused in ((usual, True), (other, False)):
        message = {"role": role, "content": _TEXT, "name": _NAME}
        message |= {"tool_call_id": _call_id(0)} if call_ids else {}
        if _writes(render, [*called, message, _ANSWER], _TEXT, if_refused=if_refused):
            return role
    return ""


def _writes(
    render: Render,
    messages: list[ChatMessage],
    wanted: str,
    *,
    if_refused: bool,
    tools: list[Any] | None = None,
) -> bool:
    """Whether the template writes that text of the messages and tools."""
    with contextlib.suppress(RecordError):
        return wanted in render(messages, tools)
    return if_refused
