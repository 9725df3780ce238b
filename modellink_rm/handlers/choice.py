"""The handler that --handler-name and --map-keys choose, and the conversation it makes of a record."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from modellink_rm.base.errors import UserError
from modellink_rm.base.registry import unknown_name_message
from modellink_rm.conversation import Conversation, Rated, Unranked
from modellink_rm.handlers.custom import CheckedHandler, class_in_file, is_file_and_class, is_foreign
from modellink_rm.handlers.fields import Handler, answer_fields, label_fields, missing_answer_fields, names_of
from modellink_rm.handlers.messages import without_thoughts
from modellink_rm.handlers.registry import HANDLERS
from modellink_rm.handlers.sharegpt import Tags
from modellink_rm.records import RecordError
from modellink_rm.records.duplicate_keys import key_twice
from modellink_rm.records.record import shortened

_LARGEST_NUMBER = 3.4028234663852886e38  # of float32, which the files keep
_NO_OBJECT = """--map-keys must be a JSON object such as '{"prompt": "question"}'"""


def make_handler(name: str, map_keys: str | None) -> Handler:
    """The handler of that name, reading the fields that --map-keys names.

    Args:
        name: a name of HANDLERS, or path/to/file.py:ClassName.
        map_keys: a JSON object from the handler's keys to names of fields, or None.

    Raises:
        UserError: the name is unknown, or --map-keys is not a JSON object of known keys.
    """
    mapping = parsed_map_keys(map_keys)
    if is_file_and_class(name):
        return CheckedHandler(_with_keys(class_in_file(name), mapping, name))
    if name not in HANDLERS:
        raise UserError(unknown_name_message(HANDLERS.kind, name, [*HANDLERS, "FILE.py:CLASS"]))
    found = HANDLERS[name]
    if not is_foreign(found):
        return _with_keys(found, mapping, name)
    return CheckedHandler(_with_keys(found, mapping, name))


def conversation_of(handler: Handler, fields: Mapping[str, Any]) -> Conversation:
    """The conversation of a record; preprocessing, scoring and generation call no other function.

    Raises:
        RecordError: the record cannot be used.
    """
    conversation = handler(fields)
    margins = conversation.margins
    if margins is not None and not all(abs(margin) <= _LARGEST_NUMBER for margin in margins):
        raise RecordError("a margin that float32 cannot hold")
    if isinstance(conversation, Rated) and any(
        abs(value) > _LARGEST_NUMBER for value in conversation.ratings
    ):
        raise RecordError("a rating that float32 cannot hold")
    return conversation


def prompt_of(handler: Handler, fields: Mapping[str, Any]) -> Unranked:
    """The prompt of a record, whose answers, if it has any, are left out.

    It is what `conversation_of` makes of the record. Where that needs answers that the record lacks, finds no
    order among them or thoughts beside one, it is asked again with other answers and without their scores.

    Raises:
        RecordError: the record cannot be used.
    """
    try:
        conversation = conversation_of(handler, fields)
    except RecordError:
        own = handler.handler if isinstance(handler, CheckedHandler) else handler
        unlabelled = {name: value for name, value in fields.items() if name not in label_fields(own)}
        answers = {name: without_thoughts(fields[name]) for name in answer_fields(own) if name in fields}
        stand_ins = dict.fromkeys(missing_answer_fields(own, fields), "-")
        conversation = conversation_of(handler, {**unlabelled, **answers, **stand_ins})
    return Unranked(
        system=conversation.system,
        tools=conversation.tools,
        prompt=conversation.prompt,
        responses=(),
        source=conversation.source,
    )


def missing_fields(map_keys: str | None, record: Mapping[str, Any]) -> list[str]:
    """Fields that --map-keys names but neither the record nor an object in a list of it has."""
    mapping = {key: name for key, name in parsed_map_keys(map_keys).items() if key != "tags"}
    attributes = names_of(mapping.pop("attributes", ""))
    names = [*mapping.values(), *attributes]
    lists = [value for value in record.values() if isinstance(value, list)]
    objects = [one for values in lists for one in values if isinstance(one, dict)]
    present = set(record).union(*objects)
    return [name for name in names if name and name not in present]


def parsed_map_keys(map_keys: str | None) -> dict[str, Any]:
    """The JSON object of --map-keys, with "" for null.

    Raises:
        UserError: it is not a JSON object, or has a key twice.
    """
    if map_keys is None:
        return {}
    try:
        mapping = json.loads(map_keys)
        twice = key_twice(map_keys.encode())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{_NO_OBJECT}: {error}; got {shortened(map_keys)}") from None
    if not isinstance(mapping, dict):
        raise UserError(f"{_NO_OBJECT}; got {shortened(map_keys)}")
    if twice is not None:
        raise UserError(f"--map-keys names the key {twice!r} twice, got {shortened(map_keys)}")
    return {key: "" if value is None else value for key, value in mapping.items()}


def _with_keys(handler: type[Any], mapping: Mapping[str, Any], name: str) -> Handler:
    """An instance of the handler; if it is a dataclass, --map-keys sets its attributes."""
    keys = [field.name for field in dataclasses.fields(handler)] if dataclasses.is_dataclass(handler) else []
    takes_tags = "tags" in keys
    tags = mapping.get("tags", {}) if takes_tags else {}
    names = {key: value for key, value in mapping.items() if not (takes_tags and key == "tags")}
    for field in dataclasses.fields(handler) if keys else ():
        if field.default and field.default in names and field.default not in keys:
            raise UserError(
                f"--map-keys {field.default!r} is not a key but the field that the key {field.name!r} reads "
                f'by default; give {{"{field.name}": "YOUR_FIELD"}}'
            )
    _check_names("--map-keys", names, keys)
    for key in getattr(handler, "required", ()):
        if names.get(key) == "":
            raise UserError(f"--map-keys {key!r} cannot be switched off: {name} needs it")
    if not isinstance(tags, dict):
        raise UserError("--map-keys 'tags' must be a JSON object")
    if tags:
        _check_names("--map-keys tags", tags, [field.name for field in dataclasses.fields(Tags)])
    values = {**names, "tags": Tags(**tags)} if tags else names
    made: Handler = handler(**values)
    fields = answer_fields(made)
    for field_name in fields:
        if fields.count(field_name) > 1:
            raise UserError(f"--map-keys: {name} would read two responses from one field, {field_name!r}")
    return made


def _check_names(flag: str, mapping: Mapping[str, Any], known: list[str]) -> None:
    for key, value in mapping.items():
        if key not in known:
            raise UserError(unknown_name_message(f"key of {flag}", key, known))
        if not isinstance(value, str):
            raise UserError(f"{flag} {key!r} must be the name of a field, got {value!r}")
