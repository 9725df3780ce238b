"""SharegptStylePairwiseHandler."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from modellink_rm.base.errors import UserError
from modellink_rm.conversation import Message, Pair, Role
from modellink_rm.handlers.fields import (
    LabelledPairHandler,
    only_item,
    optional_text,
    required,
    tools_text,
    wrong_type,
)
from modellink_rm.handlers.messages import call_message, calls_in, check_has_no_thoughts
from modellink_rm.handlers.registry import HANDLERS
from modellink_rm.records import RecordError


@dataclass(frozen=True, kw_only=True)
class Tags:
    """The names of parts and roles in sharegpt-style messages: the tags of --map-keys."""

    role_tag: str = "from"
    content_tag: str = "value"
    user_tag: str = "human"
    assistant_tag: str = "gpt"
    observation_tag: str = "observation"
    function_tag: str = "function_call"
    system_tag: str = "system"

    def __post_init__(self) -> None:
        both = self.asking().keys() & self.answering().keys()
        if both:
            raise UserError(
                f"--map-keys tags: {both.pop()!r} names both a role that asks and one that answers"
            )

    def asking(self) -> dict[str, Role]:
        """Tags of the turns that ask."""
        roles: dict[str, Role] = {self.observation_tag: "observation", self.user_tag: "user"}
        return {tag: role for tag, role in roles.items() if tag}

    def answering(self) -> dict[str, Role]:
        """Tags of the turns that answer."""
        roles: dict[str, Role] = {self.function_tag: "function_call", self.assistant_tag: "assistant"}
        return {tag: role for tag, role in roles.items() if tag}


@dataclass(frozen=True, kw_only=True)
class SharegptStylePairwiseHandler(LabelledPairHandler):
    """conversations of alternating turns, with chosen and rejected messages.

    A system message among the turns counts before the field `system`, as in LLaMA-Factory 0.9.
    """

    messages: str = "conversations"
    tags: Tags = Tags()
    system: str = ""
    tools: str = ""
    chosen: str = "chosen"
    rejected: str = "rejected"

    required: ClassVar[tuple[str, ...]] = ("messages", "chosen", "rejected")
    answer_keys: ClassVar[tuple[str, ...]] = ("chosen", "rejected")

    def __call__(self, record: Mapping[str, Any]) -> Pair:
        """The pair of a record.

        Raises:
            RecordError: a field is missing, of another type, or the turns do not alternate.
        """
        turns = required(self, record, self.messages)
        if not isinstance(turns, list):
            raise wrong_type(self.messages, "a list of messages")
        system = optional_text(record, self.system)
        if turns and self.tags.system_tag and self._role(turns[0], "turn 1") == self.tags.system_tag:
            system, turns = self._content(turns[0], "turn 1"), turns[1:]
        if not turns:
            raise RecordError("empty conversation")
        if len(turns) % 2 == 0:
            reason = "the conversation does not end with a turn to answer"
            raise RecordError(reason, f"{reason}: it has {len(turns)} turns, an even number")
        return Pair(
            system=system or None,
            tools=tools_text(record, self.tools),
            prompt=tuple(self._turn(turn, index) for index, turn in enumerate(turns)),
            chosen=self._answer(record, self.chosen),
            rejected=self._answer(record, self.rejected),
            margin=self.margin_of(record),
            probability=self.probability_of(record),
            source=self.source_of(record),
        )

    def _turn(self, turn: Any, index: int) -> Message:
        where = f"turn {index + 1}"
        roles = self.tags.answering() if index % 2 else self.tags.asking()
        role = self._role(turn, where)
        if role not in roles:
            reason = "turns do not alternate"
            raise RecordError(reason, f"{reason}: {where} is by {role!r}, expected {' or '.join(roles)}")
        return self._message(turn, role, roles, where)

    def _answer(self, record: Mapping[str, Any], name: str) -> Message:
        answer = only_item(required(self, record, name))
        if isinstance(answer, str):
            return Message("assistant", answer)
        where = f"field {name!r}"
        roles = self.tags.answering()
        role = self._role(answer, where)
        if role not in roles:
            reason = f"{where} is not an answer"
            raise RecordError(reason, f"{reason}: it is by {role!r}, expected {' or '.join(roles)}")
        check_has_no_thoughts(answer, where)
        return self._message(answer, role, roles, where)

    def _message(
        self, message: Mapping[str, Any], role: str, roles: Mapping[str, Role], where: str
    ) -> Message:
        calls = calls_in(message)
        if role != self.tags.assistant_tag or not calls:
            return Message(roles[role], self._content(message, where))
        has_text = message.get(self.tags.content_tag) is not None
        return call_message(self._content(message, where) if has_text else "", calls, where)

    def _role(self, message: Any, where: str) -> str:
        return self._part(message, self.tags.role_tag, where)

    def _content(self, message: Any, where: str) -> str:
        return self._part(message, self.tags.content_tag, where)

    def _part(self, message: Any, tag: str, where: str) -> str:
        if not isinstance(message, dict):
            parts = f"{self.tags.role_tag!r} and {self.tags.content_tag!r}"
            raise RecordError("not a message", f"{where} must be an object with {parts}")
        part = message.get(tag)
        if not isinstance(part, str):
            what = "is not a text" if tag in message else "is missing"
            raise RecordError(f"{tag!r} of a message {what}", f"{tag!r} of {where} {what}")
        return part


HANDLERS.add(SharegptStylePairwiseHandler, SharegptStylePairwiseHandler.__name__)
