"""Handlers: from the fields of a record to a `Pair`, one for each style of data."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from modellink_rm.data.pair import Message, Pair, Role
from modellink_rm.data.records import RecordError
from modellink_rm.errors import UserError
from modellink_rm.registry import Registry, unknown_name_message


class Handler(Protocol):
    """What makes a pair of a record."""

    def __call__(self, record: Mapping[str, Any]) -> Pair:
        """The pair of a record.

        Raises:
            RecordError: the record cannot be used.
        """


@dataclass(frozen=True, kw_only=True)
class AlpacaStylePairwiseHandler:
    """instruction, input, history and system, with chosen and rejected answers.

    An attribute is a key of --map-keys, its value the name of the record's field, "" for none.
    """

    prompt: str = "instruction"
    query: str = "input"
    response: str = "output"
    history: str = ""
    system: str = ""
    chosen: str = "chosen"
    rejected: str = "rejected"

    required: ClassVar[tuple[str, ...]] = ("prompt", "chosen", "rejected")

    def __call__(self, record: Mapping[str, Any]) -> Pair:
        """The pair of a record.

        Raises:
            RecordError: a field is missing or of another type.
        """
        if self.prompt not in record:
            raise _missing(self, self.prompt)
        parts = [_optional_text(record, self.prompt), _optional_text(record, self.query)]
        question = "\n".join(part for part in parts if part)
        if not question:
            raise RecordError("empty prompt", f"field {self.prompt!r} is empty: there is nothing to answer")
        chosen, rejected = self._answers(record)
        return Pair(
            system=_optional_text(record, self.system) or None,
            tools="",
            prompt=(*self._earlier_turns(record), Message("user", question)),
            chosen=Message("assistant", chosen),
            rejected=Message("assistant", rejected),
        )

    def _answers(self, record: Mapping[str, Any]) -> tuple[str, str]:
        both = record.get(self.response) if self.response else None
        if isinstance(both, list) and self.chosen not in record and self.rejected not in record:
            # The older form of such data: the response is a list, the better answer first.
            if [type(answer) for answer in both] != [str, str]:
                raise _wrong_type(self.response, "a list of two texts, the better one first")
            return both[0], both[1]
        return self._answer(record, self.chosen), self._answer(record, self.rejected)

    def _answer(self, record: Mapping[str, Any], name: str) -> str:
        answer = _only_item(_required(self, record, name))
        if not isinstance(answer, str):
            raise _wrong_type(name, "a text")
        return answer

    def _earlier_turns(self, record: Mapping[str, Any]) -> list[Message]:
        history = record.get(self.history) if self.history else None
        if history is None:
            return []
        turns = []
        for exchange in history if isinstance(history, list) else [history]:
            if not isinstance(exchange, list) or [type(text) for text in exchange] != [str, str]:
                raise _wrong_type(self.history, "a list of [question, answer] texts")
            turns += [Message("user", exchange[0]), Message("assistant", exchange[1])]
        return turns


@dataclass(frozen=True, kw_only=True)
class Tags:
    """What sharegpt-style messages call their parts and roles: the tags of --map-keys."""

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
            raise UserError(f"--map-keys tags: {both.pop()!r} names both one who asks and one who answers")

    def asking(self) -> dict[str, Role]:
        """Tags of the turns that ask."""
        roles: dict[str, Role] = {self.observation_tag: "observation", self.user_tag: "user"}
        return {tag: role for tag, role in roles.items() if tag}

    def answering(self) -> dict[str, Role]:
        """Tags of the turns that answer."""
        roles: dict[str, Role] = {self.function_tag: "function_call", self.assistant_tag: "assistant"}
        return {tag: role for tag, role in roles.items() if tag}


@dataclass(frozen=True, kw_only=True)
class SharegptStylePairwiseHandler:
    """conversations of alternating turns, with chosen and rejected messages.

    An attribute is a key of --map-keys, its value the name of the record's field, "" for none.
    """

    messages: str = "conversations"
    tags: Tags = Tags()
    system: str = ""
    tools: str = ""
    chosen: str = "chosen"
    rejected: str = "rejected"

    required: ClassVar[tuple[str, ...]] = ("messages", "chosen", "rejected")

    def __call__(self, record: Mapping[str, Any]) -> Pair:
        """The pair of a record.

        Raises:
            RecordError: a field is missing, of another type, or the turns do not alternate.
        """
        turns = _required(self, record, self.messages)
        if not isinstance(turns, list):
            raise _wrong_type(self.messages, "a list of messages")
        system = _optional_text(record, self.system)
        if turns and self.tags.system_tag and self._role(turns[0], "turn 1") == self.tags.system_tag:
            system, turns = self._content(turns[0], "turn 1"), turns[1:]
        if not turns:
            raise RecordError("empty conversation")
        if len(turns) % 2 == 0:
            reason = "the conversation does not end with a turn to answer"
            raise RecordError(reason, f"{reason}: it has {len(turns)} turns, an even number")
        return Pair(
            system=system or None,
            tools=_tools_text(record, self.tools),
            prompt=tuple(self._turn(turn, index) for index, turn in enumerate(turns)),
            chosen=self._answer(record, self.chosen),
            rejected=self._answer(record, self.rejected),
        )

    def _turn(self, turn: Any, index: int) -> Message:
        where = f"turn {index + 1}"
        roles = self.tags.answering() if index % 2 else self.tags.asking()
        role = self._role(turn, where)
        if role not in roles:
            reason = "turns do not alternate"
            raise RecordError(reason, f"{reason}: {where} is by {role!r}, expected {' or '.join(roles)}")
        return Message(roles[role], self._content(turn, where))

    def _answer(self, record: Mapping[str, Any], name: str) -> Message:
        answer = _only_item(_required(self, record, name))
        if isinstance(answer, str):
            return Message("assistant", answer)
        where = f"field {name!r}"
        roles = self.tags.answering()
        role = self._role(answer, where)
        if role not in roles:
            reason = f"{where} is no answer"
            raise RecordError(reason, f"{reason}: it is by {role!r}, expected {' or '.join(roles)}")
        return Message(roles[role], self._content(answer, where))

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


HANDLERS: Registry[type[AlpacaStylePairwiseHandler] | type[SharegptStylePairwiseHandler]] = Registry(
    "--handler-name"
)
HANDLERS.add(AlpacaStylePairwiseHandler, "AlpacaStylePairwiseHandler")
HANDLERS.add(SharegptStylePairwiseHandler, "SharegptStylePairwiseHandler")


def make_handler(name: str, map_keys: str | None) -> Handler:
    """The handler of that name, reading the fields that --map-keys names.

    Raises:
        UserError: an unknown name, or a --map-keys that is no JSON object of known keys.
    """
    handler = HANDLERS[name]
    keys = [field.name for field in dataclasses.fields(handler)]
    mapping = _parsed(map_keys)
    tags = mapping.pop("tags", {}) if "tags" in keys else {}
    _check_names("--map-keys", mapping, keys)
    for key in handler.required:
        if mapping.get(key) == "":
            raise UserError(f"--map-keys {key!r} cannot be switched off: {name} needs it")
    if not tags:
        return handler(**mapping)
    if not isinstance(tags, dict):
        raise UserError("--map-keys 'tags' must be a JSON object")
    _check_names("--map-keys tags", tags, [field.name for field in dataclasses.fields(Tags)])
    return SharegptStylePairwiseHandler(**mapping, tags=Tags(**tags))


def missing_fields(map_keys: str | None, record: Mapping[str, Any]) -> list[str]:
    """Fields that --map-keys names and the record lacks."""
    names = [name for key, name in _parsed(map_keys).items() if key != "tags"]
    return [name for name in names if name and name not in record]


def _parsed(map_keys: str | None) -> dict[str, Any]:
    if map_keys is None:
        return {}
    try:
        mapping = json.loads(map_keys)
    except ValueError as error:
        raise UserError(f"--map-keys must be a JSON object: {error}; got {map_keys}") from None
    if not isinstance(mapping, dict):
        raise UserError(f'--map-keys must be a JSON object such as {{"prompt": "question"}}; got {map_keys}')
    return {key: "" if value is None else value for key, value in mapping.items()}


def _check_names(flag: str, mapping: Mapping[str, Any], known: list[str]) -> None:
    for key, value in mapping.items():
        if key not in known:
            raise UserError(unknown_name_message(f"key of {flag}", key, known))
        if not isinstance(value, str):
            raise UserError(f"{flag} {key!r} must be the name of a field, got {value!r}")


def _optional_text(record: Mapping[str, Any], name: str) -> str:
    """The text of a field; "" where it is missing, null or switched off."""
    value = record.get(name) if name else None
    if value is not None and not isinstance(value, str):
        raise _wrong_type(name, "a text")
    return value or ""


def _tools_text(record: Mapping[str, Any], name: str) -> str:
    """The description of tools as text; a JSON value is written out."""
    tools = record.get(name) if name else None
    if tools in (None, "", "[]", "{}", [], {}):
        return ""
    if not isinstance(tools, str | list | dict):
        raise _wrong_type(name, "a text or a list of tools")
    return tools if isinstance(tools, str) else json.dumps(tools, ensure_ascii=False)


def _required(handler: Any, record: Mapping[str, Any], name: str) -> Any:
    value = record.get(name)
    if value is None:
        raise RecordError(f"field {name!r} is null") if name in record else _missing(handler, name)
    return value


def _only_item(value: Any) -> Any:
    """The item of a list of one; anything else as it is."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _missing(handler: Any, name: str) -> RecordError:
    needs = ", ".join(getattr(handler, key) for key in handler.required)
    reason = f"field {name!r} is missing"
    return RecordError(reason, f"{reason}; {type(handler).__name__} needs {needs}")


def _wrong_type(name: str, expected: str) -> RecordError:
    return RecordError(f"field {name!r} must be {expected}")
