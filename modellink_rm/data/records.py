"""Records of preference files, each with its place, parsed where they are used."""

import mmap
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from modellink_rm.errors import UserError


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
        place: "file:line", or "file[index]" for an element of an array.
        text: the bytes of one JSON value.
    """

    place: str
    text: bytes


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


def read_records(path: str) -> Iterator[Record | BadRecord]:
    """The records of a file or of the files of a directory, one at a time.

    Raises:
        UserError: no such path, nothing to read in it, or an array that does not end.
    """
    return map(parse_record, read_raw_records(path))


def parse_record(raw: RawRecord) -> Record | BadRecord:
    """The fields of a record, or what is wrong with it."""
    try:
        value = orjson.loads(raw.text)
    except orjson.JSONDecodeError as error:
        return _not_parsed(raw, error)
    if not isinstance(value, dict):
        reason = "not an object"
        return BadRecord(raw.place, reason, f"a record must be a JSON object, this is {type(value).__name__}")
    return Record(raw.place, value)


def _not_parsed(raw: RawRecord, error: orjson.JSONDecodeError) -> BadRecord:
    try:
        raw.text.decode()
    except UnicodeDecodeError as encoding_error:
        message = f"invalid UTF-8 at byte {encoding_error.start + 1} of the record"
        return BadRecord(raw.place, "invalid UTF-8", message)
    line = f"line {error.lineno}, " if b"\n" in raw.text.strip() else ""
    message = f"invalid JSON: {error.msg} ({line}column {error.colno} of the record)"
    return BadRecord(raw.place, "invalid JSON", message)


def read_raw_records(path: str) -> Iterator[RawRecord]:
    """The texts of the records of a file or of the files of a directory, in order.

    Raises:
        UserError: no such path, nothing to read in it, or an array that does not end.
    """
    for file in input_files(path):
        yield from READERS[file.suffix.lower()](file)


def input_files(path: str) -> list[Path]:
    """The files that --input stands for, a directory's by name.

    Raises:
        UserError: no such path, or no file of a known kind.
    """
    given = Path(path)
    kinds = ", ".join(sorted(READERS))
    if given.is_dir():
        files = sorted(
            file
            for file in given.iterdir()
            if file.is_file() and file.suffix.lower() in READERS and not _is_no_input(file.name)
        )
        if not files:
            raise UserError(f"--input {path} holds no file of a known kind ({kinds})")
        return files
    if not given.exists():
        raise UserError(f"--input {path} does not exist")
    if given.suffix.lower() not in READERS:
        raise UserError(f"--input {path}: cannot tell its format; a file must end in one of {kinds}")
    return [given]


def _is_no_input(name: str) -> bool:
    """True for hidden files, and for the manifest of an earlier run into the same directory."""
    return name.startswith(".") or name.endswith("_manifest.json")


_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def _read_lines(path: Path) -> Iterator[RawRecord]:
    """One record a line; blank lines are none."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            text = line.removeprefix(_BYTE_ORDER_MARK) if number == 1 else line
            if text.strip():
                yield RawRecord(f"{path}:{number}", text)


def _read_json(path: Path) -> Iterator[RawRecord]:
    """The elements of an array where the file holds one, else one record a line."""
    with path.open("rb") as file:
        start = file.read(1 << 16).removeprefix(_BYTE_ORDER_MARK).lstrip()
    return _read_array(path) if start.startswith(b"[") else _read_lines(path)


# Strings, brackets and commas of a JSON text; a quote on its own opens a string that does not end.
_MARKS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[\]{},"]', re.DOTALL)


def _read_array(path: Path) -> Iterator[RawRecord]:
    """The elements of one array, cut out of the file without parsing them.

    A bad element is thus one bad record, and memory does not grow with the file.

    Raises:
        UserError: the array does not end, or something follows it.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        depth, start, index = 0, 0, 0
        for mark in _MARKS.finditer(content):
            kind = content[mark.start()]
            if kind in b"[{":
                depth += 1
                if depth == 1:
                    start = mark.end()
            elif kind in b"]}":
                depth -= 1
            elif kind == b'"'[0] and mark.end() == mark.start() + 1:
                break
            is_end = depth == 0 and kind in b"]}"
            if is_end or (depth == 1 and kind == b","[0]):
                text = content[start : mark.start()]
                start = mark.end()
                if text.strip() or not (is_end and index == 0):
                    yield RawRecord(f"{path}[{index}]", text)
                index += 1
            if is_end:
                rest = content[start:].lstrip()
                if rest:
                    line = content[: len(content) - len(rest)].count(b"\n") + 1
                    raise UserError(f"{path}:{line}: something follows the end of the array")
                return
        line = content[:start].count(b"\n") + 1
        raise UserError(
            f"{path} is cut off or damaged: element {index} of its array, from line {line} on, does not end"
        )


# How to read a file, by the end of its name.
READERS: dict[str, Callable[[Path], Iterator[RawRecord]]] = {".json": _read_json, ".jsonl": _read_lines}
