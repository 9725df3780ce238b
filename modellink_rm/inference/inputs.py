"""What can be scored: pairs as the handlers take them, and a prompt with one response."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modellink_rm.conversation import Message, Role
from modellink_rm.handlers import Handler, SharegptStylePairwiseHandler, Tags, make_handler
from modellink_rm.records import RecordError

_OPENAI_TAGS = Tags(
    role_tag="role", content_tag="content", user_tag="user", assistant_tag="assistant", observation_tag="tool"
)
_OPENAI_PAIRS = SharegptStylePairwiseHandler(messages="messages", tags=_OPENAI_TAGS)
_ROLES: dict[str, Role] = {"user": "user", "tool": "observation", "assistant": "assistant"}


@dataclass(frozen=True, slots=True)
class ScoreInput:
    """A prompt and the responses to score: one, or chosen and rejected."""

    system: str | None
    tools: str
    turns: tuple[Message, ...]
    responses: tuple[Message, ...]

    @property
    def is_pair(self) -> bool:
        """Whether the first response is the preferred one of two."""
        return len(self.responses) == 2


def score_input(fields: Mapping[str, Any], handler: Handler | None) -> ScoreInput:
    """What a record asks to score.

    Args:
        fields: of one record.
        handler: of pairs, or None to tell from the fields.

    Raises:
        RecordError: the record cannot be used.
    """
    handler = handler or _pair_handler(fields)
    if handler is not None:
        asked = handler(fields)
        if len(asked.responses) > 2:
            reason = "more than two responses"
            raise RecordError(reason, f"{reason}: give each with its prompt, as prompt and response")
        return ScoreInput(asked.system, asked.tools, asked.prompt, asked.responses)
    if "prompt" not in fields:
        raise RecordError(
            "unknown form",
            "a record to score has prompt and response, prompt, chosen and rejected, or the fields of a "
            "pairwise handler (--handler-name)",
        )
    system, turns = _prompt(fields)
    is_pair = "response" not in fields and ("chosen" in fields or "rejected" in fields)
    names = ("chosen", "rejected") if is_pair else ("response",)
    return ScoreInput(system, "", turns, tuple(_answer(fields, name) for name in names))


def _pair_handler(fields: Mapping[str, Any]) -> Handler | None:
    if "chosen" not in fields or "rejected" not in fields:
        return None
    if "conversations" in fields:
        return make_handler("SharegptStylePairwiseHandler", None)
    if "messages" in fields:
        return _OPENAI_PAIRS
    if "instruction" in fields:
        return make_handler("AlpacaStylePairwiseHandler", None)
    return None


def _prompt(fields: Mapping[str, Any]) -> tuple[str | None, tuple[Message, ...]]:
    """System text and turns of a prompt that is a text or a list of role/content messages."""
    prompt, system = fields["prompt"], fields.get("system")
    if system is not None and not isinstance(system, str):
        raise RecordError("field 'system' must be a text")
    if isinstance(prompt, str):
        return system, (Message("user", prompt),)
    if not isinstance(prompt, list) or not prompt:
        raise RecordError("field 'prompt' must be a text or a list of messages")
    messages = [_message(item) for item in prompt]
    if messages[0][0] == "system":
        system, messages = messages[0][1], messages[1:]
    turns = []
    for index, (role, content) in enumerate(messages):
        if role not in _ROLES or (role == "assistant") != bool(index % 2):
            raise RecordError("turns do not alternate", f"turn {index + 1} of the prompt is by {role!r}")
        turns.append(Message(_ROLES[role], content))
    if len(turns) % 2 == 0:
        raise RecordError("the prompt does not end with a turn to answer")
    return system, tuple(turns)


def _answer(fields: Mapping[str, Any], name: str) -> Message:
    if name not in fields:
        raise RecordError(f"field {name!r} is missing")
    value = fields[name]
    if isinstance(value, dict):
        value = _message(value)[1]
    if not isinstance(value, str):
        raise RecordError(f"field {name!r} must be a text or a message")
    return Message("assistant", value)


def _message(item: Any) -> tuple[str, str]:
    if not isinstance(item, dict) or not all(isinstance(item.get(key), str) for key in ("role", "content")):
        raise RecordError("not a message", "a message must be an object with 'role' and 'content'")
    return item["role"], item["content"]
