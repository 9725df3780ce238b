"""OpenAiMessagesPairwiseHandler: messages with role and content, the form of TRL, XTuner and NeMo."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from modellink_rm.conversation import Message, Pair, Role
from modellink_rm.handlers.dialogues import prompt_turns
from modellink_rm.handlers.fields import (
    LabelledPairHandler,
    empty_prompt,
    json_text,
    optional_text,
    required,
    tools_text,
    wrong_type,
)
from modellink_rm.handlers.registry import HANDLERS
from modellink_rm.records import RecordError, json_in_text

_ROLES: dict[str, Role] = {
    "user": "user",
    "tool": "observation",
    "function": "observation",
    "assistant": "assistant",
}
_SYSTEM_ROLES = ("system", "developer")
# Where a message has thoughts for the chat templates of Qwen3 and GLM-4.5, and of gpt-oss, which leave out
# those of earlier answers.
_THOUGHTS = ("reasoning_content", "thinking")
# What a call has beside its arguments, and names that these have, too.
_OF_CALLS = ("name", "id", "call_id", "type", "index")
_ARGUMENTS = ("arguments", "parameters", "input", "args")


@dataclass(frozen=True, slots=True)
class Messages:
    """A parsed list of messages: the system text of the first one, and the other turns."""

    system: str
    turns: tuple[Message, ...]


@dataclass(frozen=True, kw_only=True)
class OpenAiMessagesPairwiseHandler(LabelledPairHandler):
    """chosen and rejected as lists of messages or texts, after a prompt that is a list, a text, or implicit.

    An implicit prompt is the common beginning of both lists. With an explicit prompt the lists hold only the
    answer, or begin with the prompt.
    """

    prompt: str = "prompt"
    system: str = ""
    tools: str = "tools"
    chosen: str = "chosen"
    rejected: str = "rejected"

    required: ClassVar[tuple[str, ...]] = ("chosen", "rejected")
    answer_keys: ClassVar[tuple[str, ...]] = ("chosen", "rejected")

    def __call__(self, record: Mapping[str, Any]) -> Pair:
        """The pair of a record.

        Raises:
            RecordError: a field is missing, of another type, or the turns do not alternate.
        """
        chosen = self._messages(record, self.chosen, text_is="assistant")
        rejected = self._messages(record, self.rejected, text_is="assistant")
        if self.prompt and record.get(self.prompt) is not None:
            prompt = self._messages(record, self.prompt, text_is="user")
        else:
            prompt = _common_beginning(chosen, rejected)
        return Pair(
            system=only_system_text(record, self.system, _system_text(prompt, chosen, rejected)),
            tools=tools_text(record, self.tools),
            prompt=alternating(prompt.turns, self.prompt or self.chosen),
            chosen=_answer(chosen, prompt, self.chosen),
            rejected=_answer(rejected, prompt, self.rejected),
            margin=self.margin_of(record),
            probability=self.probability_of(record),
            source=self.source_of(record),
        )

    def _messages(self, record: Mapping[str, Any], name: str, *, text_is: Role) -> Messages:
        return read_messages(required(self, record, name), name, text_is=text_is)


HANDLERS.add(OpenAiMessagesPairwiseHandler, OpenAiMessagesPairwiseHandler.__name__)


def read_messages(value: Any, name: str, *, text_is: Role) -> Messages:
    """The messages of a field: a list, one message, or a text whose role is `text_is`.

    A user's text may hold several turns.

    Raises:
        RecordError: they are not messages with role and content, or an answer has thoughts beside it.
    """
    if isinstance(value, str):
        return Messages("", prompt_turns(value) if text_is == "user" else (Message(text_is, value),))
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        raise wrong_type(name, "a text or a list of messages")
    system = ""
    turns = []
    for index, item in enumerate(value):
        where = f"message {index + 1} of field {name!r}"
        role = _role(item, where)
        if role not in _SYSTEM_ROLES:
            turns.append(_turn(item, role, where))
        elif index == 0:
            system = _content(item, where)
        else:
            reason = "a system message that is not the first"
            raise RecordError(reason, f"{where} is {reason}")
    if value and text_is == "assistant":
        check_has_no_thoughts(value[-1], f"message {len(value)} of field {name!r}")
    return Messages(system, tuple(turns))


def read_answer(value: Any, where: str) -> Message:
    """One response: a text, a message of the assistant, or a list of one.

    Raises:
        RecordError: it is something else.
    """
    found = read_messages(value, where, text_is="assistant")
    if found.system or len(found.turns) != 1 or found.turns[0].role not in ("assistant", "function_call"):
        raise RecordError("a response that is not an answer", f"{where} must be one message of the assistant")
    return found.turns[0]


def only_system_text(record: Mapping[str, Any], name: str, in_messages: str) -> str | None:
    """The system text of a record, which is in a field or in the first message; None without any.

    Args:
        name: of the field, "" for none.
        in_messages: the text of the first message, "" for none.

    Raises:
        RecordError: they are two different texts.
    """
    in_field = optional_text(record, name)
    if in_field and in_messages and in_field != in_messages:
        reason = "two system messages"
        raise RecordError(reason, f"{reason}: field {name!r} and the first message differ")
    return in_messages or in_field or None


def without_thoughts(value: Any) -> Any:
    """A field of answers without the thoughts beside them."""
    if isinstance(value, list):
        return [without_thoughts(item) for item in value]
    if isinstance(value, dict):
        return {key: part for key, part in value.items() if key not in _THOUGHTS}
    return value


def check_has_no_thoughts(answer: Mapping[str, Any], where: str) -> None:
    """Check that nothing of an answer stands beside its text: a score would not be of the whole answer.

    Raises:
        RecordError: thoughts do.
    """
    for name in _THOUGHTS:
        if answer.get(name) not in (None, ""):
            reason = "thoughts beside an answer"
            raise RecordError(
                reason,
                f"{reason}: {name!r} of {where}; write them into its content, as <think>...</think>, or "
                "leave them out",
            )


def alternating(turns: Sequence[Message], name: str) -> tuple[Message, ...]:
    """The turns of a prompt, which begins and ends with a question or an observation.

    Raises:
        RecordError: there are no turns, or they do not alternate.
    """
    if not turns:
        raise empty_prompt(name)
    for index, turn in enumerate(turns):
        expected = ("assistant", "function_call") if index % 2 else ("user", "observation")
        if turn.role not in expected:
            reason = "turns do not alternate"
            raise RecordError(
                reason, f"{reason}: turn {index + 1} is by {turn.role!r}, expected {' or '.join(expected)}"
            )
    if len(turns) % 2 == 0:
        reason = "the conversation does not end with a turn to answer"
        raise RecordError(reason, f"{reason}: it has {len(turns)} turns, an even number")
    return tuple(turns)


def _system_text(prompt: Messages, chosen: Messages, rejected: Messages) -> str:
    """The system text of a pair: the prompt's, or that with which both lists begin.

    Raises:
        RecordError: there are several.
    """
    if prompt.system:
        if {chosen.system, rejected.system} - {"", prompt.system}:
            raise RecordError("the prompt and an answer have different system messages")
        return prompt.system
    if chosen.system != rejected.system:
        raise RecordError("chosen and rejected have different system messages")
    return chosen.system


def _common_beginning(chosen: Messages, rejected: Messages) -> Messages:
    """The turns that both have before their last ones."""
    count = 0
    for one, other in zip(chosen.turns[:-1], rejected.turns[:-1], strict=False):
        if one != other:
            break
        count += 1
    return Messages("", chosen.turns[:count])


def _answer(conversation: Messages, prompt: Messages, name: str) -> Message:
    turns = conversation.turns
    if len(turns) > 1 and turns[: len(prompt.turns)] == prompt.turns:
        turns = turns[len(prompt.turns) :]
    if len(turns) != 1:
        reason = f"field {name!r} must be one answer after the prompt"
        raise RecordError(reason, f"{reason}, it has {len(turns)} messages there")
    if turns[0].role not in ("assistant", "function_call"):
        reason = f"field {name!r} is not an answer"
        raise RecordError(reason, f"{reason}: it is by {turns[0].role!r}")
    return turns[0]


def _role(item: Any, where: str) -> str:
    if not isinstance(item, dict):
        raise RecordError("not a message", f"{where} must be an object with 'role' and 'content'")
    role = item.get("role")
    if not isinstance(role, str) or (role not in _ROLES and role not in _SYSTEM_ROLES):
        known = ", ".join([*_SYSTEM_ROLES, *_ROLES])
        raise RecordError("a message with an unknown role", f"{where} has no role among {known}")
    return role


def _turn(item: Mapping[str, Any], role: str, where: str) -> Message:
    calls = calls_in(item)
    if role != "assistant" or not calls:
        return Message(_ROLES[role], _content(item, where))
    return call_message(_content(item, where) if item.get("content") is not None else "", calls, where)


def calls_in(item: Mapping[str, Any]) -> Any:
    """What a message has in `tool_calls`, or in `function_call` as OpenAI had it before."""
    return item.get("tool_calls") or item.get("function_call")


def call_message(text: str, calls: Any, where: str) -> Message:
    """An answer that calls tools, after a text that may be empty.

    Raises:
        RecordError: a call has no name, or arguments that are not JSON or have another name.
    """
    written = _calls_text(calls, where)
    return Message("function_call", f"{text}\n{written}" if text else written)


def _calls_text(calls: Any, where: str) -> str:
    """Tool calls as JSON with name and arguments: an object for one call, a list for several."""
    written = []
    for call in calls if isinstance(calls, list) else [calls]:
        function = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise RecordError("a tool call without a name", f"{where} has a tool call without a name")
        arguments = function.get("arguments")
        beside = {} if function is call else {key: call[key] for key in call if key != "function"}
        given = [
            key
            for key, value in (*function.items(), *beside.items())
            if key not in _OF_CALLS and value is not None
        ]
        if arguments is None and given:
            reason = "a tool call whose arguments have another name or place"
            raise RecordError(
                reason, f"{where} has {reason}: {', '.join(given)}; give them as 'arguments' beside its name"
            )
        if len(named := [key for key in given if key in _ARGUMENTS]) > 1:
            reason = "a tool call with arguments of two names or places"
            raise RecordError(reason, f"{where} has {reason}: {', '.join(named)}; give one 'arguments'")
        if isinstance(arguments, str):
            reason = "arguments of a tool call are not JSON"
            arguments = json_in_text(arguments, reason=reason, where=where)
        written.append({"name": function["name"], "arguments": {} if arguments is None else arguments})
    return json_text(written[0] if len(written) == 1 else written, where)


def _content(item: Mapping[str, Any], where: str) -> str:
    """A text, or the concatenated texts of a list of parts."""
    content = item.get("content")
    if isinstance(content, list) and all(
        isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
        for part in content
    ):
        return "".join(part["text"] for part in content)
    if not isinstance(content, str):
        what = "is not a text" if "content" in item else "is missing"
        raise RecordError(f"'content' of a message {what}", f"'content' of {where} {what}")
    return content
