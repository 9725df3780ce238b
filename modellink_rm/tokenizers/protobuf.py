"""The fields of a protobuf message such as tokenizer.model, read without its definition."""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Field:
    """The number of a field, and where the bytes of its value are."""

    number: int
    start: int
    end: int


def message_fields(message: bytes, start: int, end: int) -> Iterator[Field]:
    """The fields of the protobuf message in bytes `start` to `end`, in order."""
    while start < end:
        tag, start = _varint(message, start)
        wire_type = tag & 7
        if wire_type == 0:
            _, stop = _varint(message, start)
        elif wire_type == 2:
            size, start = _varint(message, start)
            stop = start + size
        else:
            stop = start + (8 if wire_type == 1 else 4)
        yield Field(tag >> 3, start, stop)
        start = stop


def _varint(message: bytes, position: int) -> tuple[int, int]:
    """A protobuf varint and the position after it."""
    value = shift = 0
    while True:
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
