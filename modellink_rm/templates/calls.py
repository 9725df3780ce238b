"""Tool calls, in the formats that the models' publishers document.

A call is an answer whose text is JSON with name and arguments, or a list of these, optionally after a text
and a line break. Handlers write `tool_calls` in this form, and LLaMA-Factory's function_call turns have it.
A call in any other form is written unchanged.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from modellink_rm.records import RecordError, check_unicode
from modellink_rm.records.duplicate_keys import DuplicateKeyError, parsed_by_key
from modellink_rm.records.record import key_twice_in_text


@dataclass(frozen=True, slots=True)
class Call:
    """One call: the function's name, and its arguments as a JSON object."""

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class NextMessage:
    """The beginning of one more message of the same answer: a control token, by its name."""

    token: str


Parts = tuple[str | NextMessage, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class CallFormat:
    """How the answers of a template call tools.

    Attributes:
        texts: from the text before the calls and the calls, the texts to write, each tokenised on its own,
            and the control tokens between them.
        replaces_opening: they replace the whole answer, including its opening line break.
        keeps_thoughts: a template that removes thoughts from earlier answers keeps those after the last
            user's message, between the calls and their results.
    """

    texts: Callable[[str, list[Call]], Parts]
    replaces_opening: bool = False
    keeps_thoughts: bool = False


def call_texts(call_format: str, content: str) -> Parts:
    """The parts of an answer that calls tools, see `CallFormat.texts`; empty if it has no call in JSON.

    Raises:
        RecordError: the format has no form for what the answer holds, or that holds half of a surrogate pair.
    """
    text, calls = text_and_calls(content)
    parts = CALL_FORMATS[call_format].texts(text, calls) if calls else ()
    for part in parts:
        if isinstance(part, str):  # in JSON, escapes may spell what no text may hold
            check_unicode(part)
    return parts


def text_and_calls(content: str) -> tuple[str, list[Call]]:
    """The text before the calls, and the calls; the whole text and no calls if it does not end with them.

    Raises:
        RecordError: a call is nested too deeply, or has a key twice.
    """
    try:
        for text, written in (("", content), content.rpartition("\n")[::2]):
            calls = _calls(written)
            if calls:
                return text, calls
    except RecursionError:
        raise RecordError("a tool call is nested too deeply") from None
    return content, []


def _calls(written: str) -> list[Call]:
    try:
        value = parsed_by_key(written)
    except DuplicateKeyError as error:
        raise key_twice_in_text(error) from None
    except ValueError:
        return []
    calls = []
    for call in value if isinstance(value, list) else [value]:
        if not isinstance(call, dict) or not isinstance(call.get("name"), str):
            return []
        named = [key for key in ("arguments", "parameters") if key in call]
        if len(named) > 1 or (not named and len(call) > 1):  # what it passes may have another name
            return []
        arguments = call[named[0]] if named else {}
        if not isinstance(arguments, dict):
            return []
        calls.append(Call(call["name"], arguments))
    return calls


def _qwen(text: str, calls: list[Call]) -> Parts:
    """Qwen/Qwen2.5-7B-Instruct and Qwen/Qwen3-8B, chat_template."""
    written = [f"<tool_call>\n{_call_json(call, 'arguments')}\n</tool_call>" for call in calls]
    return ("\n".join([text, *written] if text else written),)


def _llama3(text: str, calls: list[Call]) -> Parts:
    """meta-llama/Llama-3.1-8B-Instruct, chat_template: one call, and nothing beside it."""
    if text or len(calls) > 1:
        raise RecordError("the form of calls llama3 has no place for several, or for text beside one")
    return (_call_json(calls[0], "parameters"),)


def _chatglm3(text: str, calls: list[Call]) -> Parts:
    """THUDM/ChatGLM3, PROMPT.md: the name beside the role, then code that calls `tool_call`.

    A text before it, and each further call, is a message of its own.
    """
    messages: list[tuple[str, ...]] = [("\n", text)] if text else []
    for call in calls:
        arguments = ", ".join(f"{name}={value!r}" for name, value in call.arguments.items())
        messages.append((f"{call.name}\n", f"```python\ntool_call({arguments})\n```"))
    return _in_messages(messages)


def _glm4(text: str, calls: list[Call]) -> Parts:
    """THUDM/glm-4-9b-chat, chat_template: the name beside the role, then the arguments; messages as above."""
    messages = [(f"\n{text}",)] if text else []
    return _in_messages([*messages, *((f"{call.name}\n{_json(call.arguments)}",) for call in calls)])


def _in_messages(messages: Sequence[tuple[str, ...]]) -> Parts:
    """The messages with the role of ChatGLM's assistant before each but the first, which has it already."""
    parts: list[str | NextMessage] = []
    for message in messages:
        parts += [NextMessage("<|assistant|>"), *message] if parts else message
    return tuple(parts)


CALL_FORMATS: dict[str, CallFormat] = {
    "chatglm3": CallFormat(texts=_chatglm3, replaces_opening=True),
    "glm4": CallFormat(texts=_glm4, replaces_opening=True),
    "qwen": CallFormat(texts=_qwen, keeps_thoughts=True),
    "llama3": CallFormat(texts=_llama3),
}


def _call_json(call: Call, key: str) -> str:
    return _json({"name": call.name, key: call.arguments})


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
