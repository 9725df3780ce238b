"""Rows of the output of `generate`: a prompt as PromptResponseHandler reads it, with its answers."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modellink_rm.conversation import Message, Unranked
from modellink_rm.generation.prompts import NotAnswered, Prompt
from modellink_rm.handlers import Handler, make_handler, prompt_of
from modellink_rm.handlers.fields import answer_fields, json_text
from modellink_rm.inference.reader import OTHER_HANDLERS, RESPONSES_HANDLER
from modellink_rm.inference.rows import ERROR, OWN_NAMES, KeptFields
from modellink_rm.records import RecordError
from modellink_rm.templates.calls import text_and_calls

PROMPT, SYSTEM, TOOLS = "prompt", "system", "tools"
RESPONSES, NUM_TOKENS, ENDED = "responses", "num_tokens", "ended"
# Lists with an entry for each response: of `generate`, and of RankedResponsesHandler.
OF_EACH_RESPONSE = (NUM_TOKENS, ENDED, "ranks", "ratings")
_ROLES = {"user": "user", "observation": "tool", "assistant": "assistant", "function_call": "assistant"}
# Beside the prompt these would make another record of a row.
_ANSWERS = (RESPONSES, "response", "chosen", "rejected")
_READ = (PROMPT, SYSTEM, TOOLS, *_ANSWERS, *OTHER_HANDLERS)


@dataclass(frozen=True, slots=True)
class Answer:
    """A generated answer.

    Attributes:
        num_tokens: without the one that ends it.
        ended: False where it was cut at --max-new-tokens.
    """

    text: str
    num_tokens: int
    ended: bool


def answer_row(
    fields: Mapping[str, Any], prompt: Prompt | NotAnswered, answers: Sequence[Answer], keep: KeptFields
) -> dict[str, Any]:
    """The row of one record.

    Args:
        fields: of the record; empty where it could not be read.
    """
    if isinstance(prompt, NotAnswered):
        rest = {name: value for name, value in fields.items() if name not in _ANSWERS}
        return {**keep.of(rest, taken=(*_ANSWERS, ERROR)), ERROR: prompt.message}
    read = sorted({*_READ, *_fields_of(prompt.handler)})  # in one order in every process
    rest = {name: value for name, value in fields.items() if name not in read or name in (keep.names or ())}
    return {
        # Scores and ranks that the record has are of other answers than those beside them here.
        **keep.of(rest, taken=(*read, *OF_EACH_RESPONSE, *OWN_NAMES)),
        **_prompt_fields(fields, prompt.conversation),
        RESPONSES: [one.text for one in answers],
        NUM_TOKENS: [one.num_tokens for one in answers],
        ENDED: [one.ended for one in answers],
    }


def messages_of(conversation: Unranked) -> list[dict[str, Any]]:
    """The system text and the turns of a prompt as messages with role and content."""
    system = [{"role": "system", "content": conversation.system}] if conversation.system else []
    return system + [_message(turn) for turn in conversation.prompt]


def _message(turn: Message) -> dict[str, Any]:
    if turn.role != "function_call":
        return {"role": _ROLES[turn.role], "content": turn.content}
    try:
        text, calls = text_and_calls(turn.content)
        json_text([[call.name, call.arguments] for call in calls], "a call")  # as the row will have it
    except RecordError:  # the prompt's template has no form for calls, or would have refused this one
        text, calls = turn.content, []
    functions = [{"function": {"name": call.name, "arguments": call.arguments}} for call in calls]
    return {"role": "assistant", "content": text, **({"tool_calls": functions} if functions else {})}


def _prompt_fields(fields: Mapping[str, Any], conversation: Unranked) -> dict[str, Any]:
    """The record's own fields where PromptResponseHandler reads the same prompt of them, else messages."""
    own = {name: fields[name] for name in (PROMPT, SYSTEM, TOOLS) if name in fields}
    try:
        found = prompt_of(make_handler(RESPONSES_HANDLER, None), own)
    except RecordError:
        found = None
    if found is not None and found == dataclasses.replace(conversation, source=None):
        return own
    tools = {TOOLS: conversation.tools} if conversation.tools else {}
    return {PROMPT: messages_of(conversation), **tools}


def _fields_of(handler: Handler) -> set[str]:
    """Names of the fields that a handler reads, but for the source."""
    found: tuple[dataclasses.Field[Any], ...] = ()
    if dataclasses.is_dataclass(handler):
        found = dataclasses.fields(handler)
    names = [getattr(handler, one.name) for one in found if one.name != "source"]
    return {name for name in names if isinstance(name, str) and name} | set(answer_fields(handler))
