"""Blocks of records: their bounds, their size and their checksum."""

import functools
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from modellink_rm.records.record import RawRecord, RecordBlock

_TEXT_SUFFIXES = (".json", ".jsonl", ".txt")


def blocks_of(records: Iterable[RawRecord], *, num_records: int, num_bytes: int) -> Iterator[RecordBlock]:
    """The records in blocks of `num_records`, or fewer where their texts have `num_bytes` together."""
    block: list[RawRecord] = []
    size = 0
    for record in records:
        block.append(record)
        size += len(record.text)
        if len(block) == num_records or size >= num_bytes:
            yield RecordBlock(block)
            block, size = [], 0
    if block:
        yield RecordBlock(block)


def text_crc32(block: Iterable[RawRecord]) -> int:
    """Checksum of the concatenated texts of records."""
    return functools.reduce(lambda crc, raw: zlib.crc32(raw.text, crc), block, 0)


def text_bytes(files: list[Path]) -> int:
    """Bytes of the records in the files; 0 where their sizes do not say it: tables, compressed files."""
    if any(path.suffix.lower() not in _TEXT_SUFFIXES for path in files):
        return 0
    return sum(path.stat().st_size for path in files)
