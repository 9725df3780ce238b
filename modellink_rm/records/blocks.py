"""Blocks of records: their bounds, their size and their checksum."""

import functools
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from modellink_rm.base.parts import InputChangedError
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


def text_crc32(block: Iterable[RawRecord], before: int = 0) -> int:
    """Checksum of the concatenated texts of records; of one without text, of what is wrong with it.

    Args:
        before: the checksum of the records before these.
    """
    return functools.reduce(lambda crc, raw: zlib.crc32(raw.text or raw.problem.encode(), crc), block, before)


def check_resumed_block(block: RecordBlock, *, num_records: int, crc32: int) -> None:
    """Check that a part of an interrupted run was made of these records.

    Args:
        num_records: of the part.
        crc32: checksum of their texts.

    Raises:
        InputChangedError: the input changed since.
    """
    if (num_records, crc32) != (len(block), text_crc32(block)):
        where = f"from {block[0].place} on" if block else "at its end"
        raise InputChangedError(
            f"--resume: the input changed since the interrupted run, {where}; "
            "run without --resume to start over"
        )


def text_bytes(files: list[Path]) -> int:
    """Bytes of the records in the files; 0 where their sizes do not say it: tables, compressed files."""
    if any(path.suffix.lower() not in _TEXT_SUFFIXES for path in files):
        return 0
    return sum(path.stat().st_size for path in files)
