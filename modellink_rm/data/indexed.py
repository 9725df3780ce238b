"""Megatron's indexed dataset files, version 1: rows of int32 in a .bin, their places in a .idx.

The layout is that of megatron-core 0.16.1, megatron/core/datasets/indexed_dataset.py.
"""

import hashlib
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from modellink_rm.errors import UserError

_MAGIC = b"MMIDIDX\x00\x00"
_HEADER = struct.Struct("<9sQBQQ")  # magic, version, dtype, rows, document boundaries
_VERSION = 1
_INT32 = 4  # Megatron's code of the dtype
_ITEM_BYTES = 4
_BLOCK_ROWS = 1 << 16  # of the .idx that are in memory at a time


def bin_path(prefix: Path) -> Path:
    """The file of the rows."""
    return prefix.with_name(prefix.name + ".bin")


def idx_path(prefix: Path) -> Path:
    """The file of the rows' lengths and places."""
    return prefix.with_name(prefix.name + ".idx")


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """Size in bytes and checksum in hex of one file."""

    size: int
    sha256: str


class IndexedWriter:
    """Writes rows one after the other, each of them a document; memory does not grow with their number.

    Args:
        bin_file: where the rows go.
        idx_file: a file with a name, since its lengths are read again for what follows them.
    """

    def __init__(self, bin_file: BinaryIO, idx_file: BinaryIO) -> None:
        self._bin_file = bin_file
        self._idx_file = idx_file
        self._digest = hashlib.sha256()
        self._size = 0
        self._num_rows = 0
        self._idx_file.write(bytes(_HEADER.size))

    def append(self, rows: NDArray[np.int32], lengths: NDArray[np.int32]) -> None:
        """Append rows of these `lengths`, which lie one after the other in `rows`."""
        assert len(rows) == lengths.sum()
        data = rows.astype("<i4", copy=False).tobytes()
        self._bin_file.write(data)
        self._digest.update(data)
        self._size += len(data)
        self._num_rows += len(lengths)
        self._idx_file.write(lengths.astype("<i4", copy=False).tobytes())

    def finish(self) -> tuple[FileEntry, FileEntry]:
        """Complete the .idx, after which nothing can be appended; what the .bin and the .idx hold."""
        index = self._idx_file
        index.flush()
        end = 0
        with open(index.name, "rb") as written:
            written.seek(_HEADER.size)
            for start in range(0, self._num_rows, _BLOCK_ROWS):
                count = min(_BLOCK_ROWS, self._num_rows - start)
                lengths = np.frombuffer(written.read(count * _ITEM_BYTES), "<i4")
                ends = end + np.cumsum(lengths, dtype="<i8") * _ITEM_BYTES
                index.write((ends - lengths * np.int64(_ITEM_BYTES)).astype("<i8").tobytes())
                end = int(ends[-1])
        for start in range(0, self._num_rows + 1, _BLOCK_ROWS):
            stop = min(start + _BLOCK_ROWS, self._num_rows + 1)
            index.write(np.arange(start, stop, dtype="<i8").tobytes())
        size = index.tell()
        index.seek(0)
        index.write(_HEADER.pack(_MAGIC, _VERSION, _INT32, self._num_rows, self._num_rows + 1))
        index.flush()
        with open(index.name, "rb") as written:
            digest = hashlib.file_digest(written, "sha256").hexdigest()
        return (
            FileEntry(size=self._size, sha256=self._digest.hexdigest()),
            FileEntry(size=size, sha256=digest),
        )


class IndexedReader:
    """Rows of int32 from {prefix}.bin and {prefix}.idx, mapped into memory.

    Attributes:
        lengths: int32 [num_rows].

    Raises:
        UserError: a file is missing, of another kind, or cut off.
    """

    def __init__(self, prefix: Path) -> None:
        index = _read(idx_path(prefix))
        if len(index) < _HEADER.size:
            raise UserError(
                f"{idx_path(prefix)} is cut off: it holds {len(index)} bytes, less than its header"
            )
        magic, version, dtype, num_rows, num_boundaries = _HEADER.unpack_from(index)
        if magic != _MAGIC or version != _VERSION:
            raise UserError(f"{idx_path(prefix)} is not a Megatron indexed dataset of version {_VERSION}")
        if dtype != _INT32:
            raise UserError(
                f"{idx_path(prefix)} holds values of Megatron's dtype code {dtype}, not int32 (4)"
            )
        expected = _HEADER.size + num_rows * (4 + 8) + num_boundaries * 8
        if len(index) != expected:
            raise UserError(f"{idx_path(prefix)} is damaged: it has {len(index)} bytes instead of {expected}")
        self.lengths: NDArray[np.int32] = np.frombuffer(index, "<i4", num_rows, _HEADER.size)
        pointers = np.frombuffer(index, "<i8", num_rows, _HEADER.size + 4 * num_rows)
        self._starts: NDArray[np.int64] = pointers // _ITEM_BYTES
        self._items = _mapped_items(bin_path(prefix))
        num_items = int(self.lengths.sum(dtype=np.int64))
        if len(self._items) != num_items:
            raise UserError(
                f"{bin_path(prefix)} is damaged: it has {len(self._items)} values, its .idx says {num_items}"
            )
        if np.any(self._starts < 0) or np.any(self._starts + self.lengths > num_items):
            raise UserError(f"{idx_path(prefix)} is damaged: it points outside of its .bin")

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, row: int) -> NDArray[np.int32]:
        """Row `row`, int32 [length], a view of the file."""
        start = self._starts[row]
        return self._items[start : start + self.lengths[row]]

    def first_row_outside(self, num_ids: int) -> int | None:
        """The first row that is empty or holds a value outside of [0, num_ids); reads every value."""
        if self.lengths.all() and self._items.min(initial=0) >= 0 and self._items.max(initial=0) < num_ids:
            return None
        for row, length in enumerate(self.lengths):
            values = self[row]
            if not length or values.min() < 0 or values.max() >= num_ids:
                return row
        return None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


def _mapped_items(path: Path) -> NDArray[np.int32]:
    try:
        size = path.stat().st_size
        if size % _ITEM_BYTES:
            raise UserError(f"{path} is damaged: its {size} bytes are no whole number of int32 values")
        if size == 0:  # an empty file cannot be mapped
            return np.empty(0, np.int32)
        # A plain array: slicing np.memmap itself costs ten times as much a row.
        return np.asarray(np.memmap(path, dtype="<i4", mode="r"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
