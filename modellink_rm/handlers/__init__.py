"""Handlers: from the fields of a record to a `Pair` or a `Ranking`, one for each style of data."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from modellink_rm.base.errors import UserError
from modellink_rm.base.registry import Registry, unknown_name_message
from modellink_rm.handlers.alpaca import AlpacaStylePairwiseHandler
from modellink_rm.handlers.custom import (
    CheckedHandler,
    class_in_file,
    class_of_entry_point,
    entry_point_names,
    is_file_and_class,
)
from modellink_rm.handlers.fields import Handler, PairwiseHandler, ResponsesHandler
from modellink_rm.handlers.helpsteer import HelpSteerPairwiseHandler
from modellink_rm.handlers.hh_rlhf import HhRlhfPairwiseHandler
from modellink_rm.handlers.messages import OpenAiMessagesPairwiseHandler
from modellink_rm.handlers.nectar import NectarResponsesHandler
from modellink_rm.handlers.ranked import RankedResponsesHandler
from modellink_rm.handlers.safe_rlhf import SafeRlhfPairwiseHandler
from modellink_rm.handlers.sharegpt import SharegptStylePairwiseHandler, Tags
from modellink_rm.handlers.ultrafeedback import UltraFeedbackPairwiseHandler

__all__ = [
    "HANDLERS",
    "Handler",
    "PairwiseHandler",
    "ResponsesHandler",
    "SharegptStylePairwiseHandler",
    "Tags",
    "make_handler",
    "missing_fields",
]

HANDLERS: Registry[type[ResponsesHandler]] = Registry("--handler-name")
for _handler in (
    AlpacaStylePairwiseHandler,
    SharegptStylePairwiseHandler,
    OpenAiMessagesPairwiseHandler,
    HhRlhfPairwiseHandler,
    SafeRlhfPairwiseHandler,
    UltraFeedbackPairwiseHandler,
    HelpSteerPairwiseHandler,
    RankedResponsesHandler,
    NectarResponsesHandler,
):
    HANDLERS.add(_handler, _handler.__name__)


def make_handler(name: str, map_keys: str | None) -> Handler:
    """The handler of that name, reading the fields that --map-keys names.

    Args:
        name: a name of HANDLERS, an entry point, or path/to/file.py:ClassName.
        map_keys: a JSON object from the handler's keys to names of fields, or None.

    Raises:
        UserError: an unknown name, or a --map-keys that is no JSON object of known keys.
    """
    mapping = _parsed(map_keys)
    if name in list(HANDLERS):
        return _with_keys(HANDLERS[name], mapping, name)
    own = class_in_file(name) if is_file_and_class(name) else class_of_entry_point(name)
    if own is None:
        raise UserError(
            unknown_name_message(HANDLERS.kind, name, [*HANDLERS, *entry_point_names(), "FILE.py:CLASS"])
        )
    return CheckedHandler(_with_keys(own, mapping, name))


def missing_fields(map_keys: str | None, record: Mapping[str, Any]) -> list[str]:
    """Fields that --map-keys names and the record lacks."""
    names = [name for key, name in _parsed(map_keys).items() if key != "tags"]
    return [name for name in names if name and name not in record]


def _with_keys(handler: type[Any], mapping: dict[str, Any], name: str) -> Handler:
    """An instance whose attributes --map-keys sets; only a dataclass has such."""
    keys = [field.name for field in dataclasses.fields(handler)] if dataclasses.is_dataclass(handler) else []
    tags = mapping.pop("tags", {}) if "tags" in keys else {}
    _check_names("--map-keys", mapping, keys)
    for key in getattr(handler, "required", ()):
        if mapping.get(key) == "":
            raise UserError(f"--map-keys {key!r} cannot be switched off: {name} needs it")
    if not isinstance(tags, dict):
        raise UserError("--map-keys 'tags' must be a JSON object")
    if tags:
        _check_names("--map-keys tags", tags, [field.name for field in dataclasses.fields(Tags)])
        mapping["tags"] = Tags(**tags)
    made: Handler = handler(**mapping)
    return made


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
