"""One record: its text, its fields, or why it cannot be used."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import orjson

from modellink_rm.config.limits import DEFAULT_LIMITS, Limits
from modellink_rm.records.duplicate_keys import DuplicateKeyError, duplicate_key, parsed_by_key

_NOT_UTF8 = "invalid UTF-8"
_HALF_A_PAIR = "half of a surrogate pair"
_NESTED = "nested too deeply"
_KEY_TWICE = "an object with a key twice"
_TOO_MANY_DIGITS = "a number with more digits than Python reads"
# An integer of more than 64 bits has so many digits: orjson rounds it, and Python's own parser does not.
_MANY_DIGITS = b"0" * 19
_AS_ZEROS = bytes.maketrans(b"123456789", b"000000000")

_LONGEST_MESSAGE = 300  # characters; a message may quote the record


def shortened(message: str) -> str:
    """The message on one line, cut to about two terminal lines."""
    message = message if len(message) <= _LONGEST_MESSAGE else f"{message[:_LONGEST_MESSAGE]}..."
    return " ".join(message.splitlines())


class RecordError(ValueError):
    """A record cannot be used; the message completes "file:line: ".

    Attributes:
        reason: a short form of the message, by which such records are counted.
    """

    def __init__(self, reason: str, message: str = "") -> None:
        super().__init__(shortened(message or reason))
        self.reason = reason


@dataclass(frozen=True, slots=True)
class RawRecord:
    """The text of one record, not parsed yet.

    Attributes:
        place: "file:line", or "file[index]" for an element of an array or a row of a table.
        text: the bytes of one JSON value.
        problem: why its reader could not read the text; "" if it could.
    """

    place: str
    text: bytes
    problem: str = ""


class RecordBlock(tuple[RawRecord, ...]):
    """Records that go to a worker together, pickled as one text: faster than pickling each one."""

    __slots__ = ()

    def __reduce__(self) -> tuple[Any, ...]:
        places = [raw.place for raw in self]
        problems = {index: raw.problem for index, raw in enumerate(self) if raw.problem}
        return _block_of, (
            b"".join([raw.text for raw in self]),
            [len(raw.text) for raw in self],
            places,
            problems,
        )


def _block_of(text: bytes, sizes: list[int], places: list[str], problems: dict[int, str]) -> RecordBlock:
    ends = list(accumulate(sizes, initial=0))
    return RecordBlock(
        RawRecord(place, text[start:end], problems.get(index, ""))
        for index, (place, (start, end)) in enumerate(zip(places, pairwise(ends), strict=True))
    )


@dataclass(frozen=True, slots=True)
class Record:
    """The fields of one record."""

    place: str
    fields: dict[str, Any]


@dataclass(frozen=True, slots=True)
class BadRecord:
    """A record that cannot be used.

    Attributes:
        place: as in `RawRecord`.
        reason: a short form of the message, by which such records are counted.
        message: why it cannot be used.
    """

    place: str
    reason: str
    message: str


def parse_record(raw: RawRecord) -> Record | BadRecord:
    """The fields of a record, or why it cannot be used."""
    if raw.problem:
        return BadRecord(raw.place, raw.problem, raw.problem)
    try:
        value = orjson.loads(raw.text)
        if _MANY_DIGITS in raw.text.translate(_AS_ZEROS):
            value = json.loads(raw.text)
    except orjson.JSONDecodeError as error:
        return _not_parsed(raw, error)
    except RecursionError:
        return BadRecord(raw.place, _NESTED, _NESTED)
    except ValueError:
        return BadRecord(raw.place, _TOO_MANY_DIGITS, _TOO_MANY_DIGITS)
    if not isinstance(value, dict):
        reason = "not an object"
        return BadRecord(raw.place, reason, f"a record must be a JSON object, this is {type(value).__name__}")
    try:
        key = duplicate_key(raw.text, value)
    except RecursionError:
        return BadRecord(raw.place, _NESTED, _NESTED)
    if key is not None:
        return BadRecord(raw.place, _KEY_TWICE, shortened(f"{_KEY_TWICE}: {key!r}"))
    return Record(raw.place, value)


def check_unicode(text: str) -> None:
    """Check that a text can be written in UTF-8; one that was read of a file can.

    Raises:
        RecordError: it has half of a surrogate pair.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RecordError(_HALF_A_PAIR, f"{_HALF_A_PAIR}, at character {error.start + 1} of a text") from None


def json_in_text(text: str, *, reason: str, where: str = "") -> Any:
    """The value of JSON that is a text of a record, such as the arguments of a call.

    Args:
        reason: what is said of a text that is no JSON.
        where: the text's place in the record, for that message.

    Raises:
        RecordError: it is no JSON, or has a key twice in one object, of which a parser keeps one value.
    """
    try:
        return parsed_by_key(text)
    except DuplicateKeyError as error:
        raise key_twice_in_text(error) from None
    except (ValueError, RecursionError):
        raise RecordError(reason, f"{where}: {reason}" if where else reason) from None


def key_twice_in_text(error: DuplicateKeyError) -> RecordError:
    """What is raised for JSON in a record's text that has a key twice."""
    return RecordError(_KEY_TWICE, f"{_KEY_TWICE}: {error.key!r}, in the JSON of a text")


def record_of_row(place: str, row: Mapping[str, Any], limits: Limits = DEFAULT_LIMITS) -> RawRecord:
    """A row of a table as a record: numbers and text as in JSON, bytes as UTF-8, anything else as str()."""
    try:
        text = orjson.dumps(row, default=_as_text)
    except TypeError as error:  # bytes, a lone surrogate, or an integer of more than 64 bits
        if isinstance(error.__cause__, UnicodeDecodeError) or "not valid UTF-8" in str(error):
            return RawRecord(place, b"", problem=_NOT_UTF8)
        return RawRecord(place, b"", problem=f"the row cannot be written as JSON: {error}")
    if len(text) > limits.max_record_bytes:
        return RawRecord(place, b"", problem=limits.too_long)
    return RawRecord(place, text)


def _as_text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _not_parsed(raw: RawRecord, error: orjson.JSONDecodeError) -> BadRecord:
    try:
        raw.text.decode()
    except UnicodeDecodeError as encoding_error:
        message = f"invalid UTF-8 at byte {encoding_error.start + 1} of the record"
        return BadRecord(raw.place, _NOT_UTF8, message)
    if b"\0" in raw.text:
        reason = "NUL bytes"
        message = f"{reason}, from byte {raw.text.index(0) + 1} of the record on: the file is damaged"
        return BadRecord(raw.place, reason, message)
    line = f"line {error.lineno}, " if b"\n" in raw.text.strip() else ""
    where = f"({line}column {error.colno} of the record)"
    if "surrogate" in error.msg:
        reason = _HALF_A_PAIR
        return BadRecord(raw.place, reason, f"{reason} spelled as \\u.... {where}")
    return BadRecord(raw.place, "invalid JSON", f"invalid JSON: {error.msg} {where}")
