"""One record: its text, its fields, or what is wrong with it."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import orjson


class RecordError(ValueError):
    """What is wrong with one record; the message completes "file:line: ".

    Attributes:
        reason: a short form of the message, to count records by.
    """

    def __init__(self, reason: str, message: str = "") -> None:
        super().__init__(message or reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class RawRecord:
    """The text of one record, not parsed yet.

    Attributes:
        place: "file:line", or "file[index]" for an element of an array or a row of a table.
        text: the bytes of one JSON value.
        problem: why there is no text, where its reader could make none; else "".
    """

    place: str
    text: bytes
    problem: str = ""


class Chunk(tuple[RawRecord, ...]):
    """Records that go to a worker together; pickled as one text, which is faster than each on its own."""

    __slots__ = ()

    def __reduce__(self) -> tuple[Any, ...]:
        places = [raw.place for raw in self]
        problems = {index: raw.problem for index, raw in enumerate(self) if raw.problem}
        return _chunk_of, (
            b"".join([raw.text for raw in self]),
            [len(raw.text) for raw in self],
            places,
            problems,
        )


def _chunk_of(text: bytes, sizes: list[int], places: list[str], problems: dict[int, str]) -> Chunk:
    ends = list(accumulate(sizes, initial=0))
    return Chunk(
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
        reason: a short form of the message, to count by.
        message: what is wrong with it.
    """

    place: str
    reason: str
    message: str


def parse_record(raw: RawRecord) -> Record | BadRecord:
    """The fields of a record, or what is wrong with it."""
    if raw.problem:
        return BadRecord(raw.place, raw.problem, raw.problem)
    try:
        value = orjson.loads(raw.text)
    except orjson.JSONDecodeError as error:
        return _not_parsed(raw, error)
    if not isinstance(value, dict):
        reason = "not an object"
        return BadRecord(raw.place, reason, f"a record must be a JSON object, this is {type(value).__name__}")
    return Record(raw.place, value)


def record_of_row(place: str, row: Mapping[str, Any]) -> RawRecord:
    """The record of a table's row: numbers and text as in JSON, anything else as its text."""
    try:
        return RawRecord(place, orjson.dumps(row, default=_as_text))
    except TypeError as error:  # a lone surrogate, or an integer of more than 64 bits
        return RawRecord(place, b"", problem=f"the row cannot be written as JSON: {error}")


def _as_text(value: object) -> str:
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)


def _not_parsed(raw: RawRecord, error: orjson.JSONDecodeError) -> BadRecord:
    try:
        raw.text.decode()
    except UnicodeDecodeError as encoding_error:
        message = f"invalid UTF-8 at byte {encoding_error.start + 1} of the record"
        return BadRecord(raw.place, "invalid UTF-8", message)
    line = f"line {error.lineno}, " if b"\n" in raw.text.strip() else ""
    message = f"invalid JSON: {error.msg} ({line}column {error.colno} of the record)"
    return BadRecord(raw.place, "invalid JSON", message)
