"""Records in text files: JSON arrays, one JSON object per line, CSV."""

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from modellink_rm.base.errors import UserError
from modellink_rm.config.limits import DEFAULT_LIMITS, Limits
from modellink_rm.records.compressed import opened
from modellink_rm.records.record import RawRecord, record_of_row

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_READ_BYTES = 1 << 20


def read_lines(path: Path, limits: Limits = DEFAULT_LIMITS) -> Iterator[RawRecord]:
    """One record per line, without blank lines; a record over the limit has no text."""
    longest = limits.max_record_bytes
    with opened(path, limits) as file:
        number = 0
        while line := file.readline(longest + 1):
            number += 1
            if len(line) > longest and line[-1:] != b"\n":
                yield RawRecord(f"{path}:{number}", b"", problem=limits.too_long)
                _skip_line(file)
                continue
            text = line.removeprefix(_BYTE_ORDER_MARK) if number == 1 else line
            if text.strip():
                yield RawRecord(f"{path}:{number}", text)


def _skip_line(file: IO[bytes]) -> None:
    """Skip the rest of a line."""
    while (rest := file.readline(_READ_BYTES)) and rest[-1:] != b"\n":
        pass


def read_json(path: Path, limits: Limits = DEFAULT_LIMITS) -> Iterator[RawRecord]:
    """The elements of an array if the file begins with one, else one record per line."""
    with opened(path, limits) as file:
        start = file.read(1 << 16).removeprefix(_BYTE_ORDER_MARK).lstrip()
    return _read_array(path, limits) if start.startswith(b"[") else read_lines(path, limits)


def _up_to(marks: bytes) -> re.Pattern[bytes]:
    """JSON text up to and with the first of `marks` outside strings, or to its end.

    A string that does not end counts as a mark: its quotation mark.
    """
    outside = rb'[^"' + marks + rb"]*+"
    string = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
    return re.compile(outside + rb"(?:" + string + outside + rb")*+([" + marks + rb'"]|\Z)', re.DOTALL)


_UP_TO_COMMA_OR_BRACKET = _up_to(rb"\[\]{},")
_UP_TO_BRACKET = _up_to(rb"\[\]{}")


def _read_array(path: Path, limits: Limits) -> Iterator[RawRecord]:
    """The elements of one array, cut out of the stream without parsing them.

    So a bad element is one bad record, and memory grows with the longest element, not with the file.

    Raises:
        UserError: the array does not end, something follows it, or an element is over the limit.
    """
    with opened(path, limits) as file:
        buffer, line = b"", 1  # what is not parsed yet, and the line in which it starts
        start, position = 0, 0  # offsets in the buffer: of the element, and of the next mark
        depth, index = 0, 0
        # Doubling the buffer bounds how often a long element is scanned.
        while data := file.read(max(_READ_BYTES, len(buffer))):
            buffer += data
            while position < len(buffer):
                find = _UP_TO_COMMA_OR_BRACKET if depth < 2 else _UP_TO_BRACKET
                found = find.match(buffer, position)
                assert found is not None  # the end is always found
                kind, place = found[1], found.start(1)
                if kind == b'"':
                    position = place  # its end is still to be read
                    break
                position = found.end()
                if kind in (b"[", b"{"):
                    depth += 1
                    if depth == 1:
                        start = position
                elif kind in (b"]", b"}"):
                    depth -= 1
                is_end = depth == 0 and kind in (b"]", b"}")
                if is_end or (depth == 1 and kind == b","):
                    text = buffer[start:place]
                    start = position
                    if len(text) > limits.max_record_bytes:
                        yield RawRecord(f"{path}[{index}]", b"", problem=limits.too_long)
                    elif text.strip() or not (is_end and index == 0):
                        yield RawRecord(f"{path}[{index}]", text)
                    index += 1
                if is_end:
                    line += buffer.count(b"\n", 0, start)
                    _check_nothing_follows(path, buffer[start:], file, line)
                    return
            line += buffer.count(b"\n", 0, start)
            buffer, position, start = buffer[start:], position - start, 0
            if len(buffer) > limits.max_record_bytes:
                raise UserError(
                    f"{path}: element {index} of its array, from line {line} on, is {limits.too_long}"
                )
    raise UserError(
        f"{path} is cut off or damaged: element {index} of its array, from line {line} on, does not end"
    )


def _check_nothing_follows(path: Path, rest: bytes, file: IO[bytes], line: int) -> None:
    while rest:
        found = rest.lstrip()
        line += rest.count(b"\n", 0, len(rest) - len(found))
        if found:
            raise UserError(f"{path}:{line}: there is text after the end of the array")
        rest = file.read(_READ_BYTES)


def read_csv(path: Path, limits: Limits = DEFAULT_LIMITS) -> Iterator[RawRecord]:
    """The rows under a header of field names; every field is a text.

    Raises:
        UserError: there is no header, it names a field twice, or a row is over the limit, for example
            because a quotation mark is never closed.
    """
    csv.field_size_limit(limits.max_record_bytes)
    with opened(path, limits) as file:
        # Invalid UTF-8 becomes lone surrogates, which make one bad record.
        text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
        lines = _CsvLines(text, path, limits)
        rows = csv.reader(lines)
        try:
            header = next(rows, [])
            if not header:
                return
            if len(set(header)) < len(header):
                raise UserError(f"{path}:1: the header names a field twice: {', '.join(header)}")
            line = rows.line_num + 1
            for row in rows:
                lines.num_characters = 0
                if row:
                    yield _csv_record(f"{path}:{line}", header, row, limits)
                line = rows.line_num + 1
        except csv.Error as error:
            raise UserError(f"{path}:{rows.line_num + 1}: invalid CSV: {error}") from None
        finally:
            text.detach()


class _CsvLines:
    """The lines of a CSV; refuses a row that is over the limit.

    Attributes:
        num_characters: of all lines returned since it was last set to 0.
    """

    def __init__(self, text: io.TextIOWrapper, path: Path, limits: Limits) -> None:
        self._text = text
        self._path = path
        self._limits = limits
        self.num_characters = 0

    def __iter__(self) -> Iterator[str]:
        longest = self._limits.max_record_bytes
        while line := self._text.readline(longest + 1):
            self.num_characters += len(line)
            if self.num_characters > longest:
                raise UserError(
                    f"{self._path}: a row, perhaps with an unclosed quote, is {self._limits.too_long}"
                )
            yield line


def _csv_record(place: str, header: list[str], row: list[str], limits: Limits) -> RawRecord:
    if len(row) != len(header):
        return RawRecord(place, b"", problem="more or fewer fields than the header")
    return record_of_row(place, dict(zip(header, row, strict=True)), limits)
