"""Duplicate keys in a JSON object, of which JSON parsers silently keep one value."""

import contextlib
import json
from typing import Any

import orjson

_ESCAPED_COLON = b"\\u003"  # with an a or A after it


def duplicate_key(text: bytes, value: Any) -> str | None:
    """A key that is twice in one object of a JSON text; None if there is none.

    Every key is followed by a colon, so a text with as many colons as its value has when written again
    has no duplicate key. Only other texts are parsed key by key.

    Args:
        text: valid JSON.
        value: what orjson parsed from it.

    Raises:
        RecursionError: the keys must be parsed, and are nested too deeply for Python's own parser.
    """
    with contextlib.suppress(orjson.JSONEncodeError):  # nested more deeply than orjson can write
        if text.count(b":") == orjson.dumps(value).count(b":") and _ESCAPED_COLON not in text:
            return None
    return _found_by_key(text)


def key_twice(text: bytes) -> str | None:
    """As `duplicate_key`, of a text that may be no JSON, or what only Python's own parser takes for it.

    Raises:
        ValueError: it is no JSON.
        RecursionError: it is nested too deeply.
    """
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:  # of NaN, and of UTF-16 too
        return _found_by_key(text)
    return duplicate_key(text, value)


def parsed_by_key(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises:
        DuplicateKeyError: a key is twice in one object.
        ValueError: it is no JSON.
        RecursionError: it is nested too deeply.
    """
    return json.loads(text, object_pairs_hook=_checked)


def _found_by_key(text: bytes) -> str | None:
    try:
        parsed_by_key(text)
    except DuplicateKeyError as error:
        return error.key
    return None


class DuplicateKeyError(Exception):
    """A key is twice in one object."""

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


def _checked(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise DuplicateKeyError(next(key for key in found if keys.count(key) > 1))
    return found
