"""A key that stands twice in one object: JSON parsers keep one of its values and say nothing."""

import contextlib
import json
from typing import Any

import orjson

_ESCAPED_COLON = b"\\u003"  # with an a or A after it


def duplicate_key(text: bytes, value: Any) -> str | None:
    """A key that an object of a JSON text holds twice, None where there is none.

    Keys are only looked at one by one where a count leaves room for doubt: a colon follows every key, so a
    text with as many colons as its value has when written again holds no key twice.

    Args:
        text: valid JSON.
        value: what orjson made of it.

    Raises:
        RecursionError: it is nested too deeply for Python's own parser, and there is room for doubt.
    """
    with contextlib.suppress(orjson.JSONEncodeError):  # nested deeper than orjson writes
        if text.count(b":") == orjson.dumps(value).count(b":") and _ESCAPED_COLON not in text:
            return None
    try:
        json.loads(text, object_pairs_hook=_checked)
    except _DuplicateKeyError as error:
        return error.key
    return None


class _DuplicateKeyError(Exception):
    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


def _checked(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _DuplicateKeyError(next(key for key in found if keys.count(key) > 1))
    return found
