"""Megatron's indexed dataset files, version 1: rows of numbers in a .bin, their places in a .idx.

The layout is that of megatron-core 0.16.1, megatron/core/datasets/indexed_dataset.py.
"""

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from modellink_rm.base.checksums import BlockChecksums, FileEntry, VerifiedBlocks
from modellink_rm.base.errors import UserError
from modellink_rm.base.files import start_writing_out

_MAGIC = b"MMIDIDX\x00\x00"
_HEADER = struct.Struct("<9sQBQQ")  # magic, version, dtype, rows, document boundaries
_VERSION = 1
_DTYPE_CODES = {"uint8": 1, "int32": 4, "float64": 6, "float32": 7}  # Megatron's
_LENGTH_BYTES = 4
_BLOCK_ROWS = 1 << 16  # of the .idx that are in memory at a time
_BYTES_TO_START_WRITING = 1 << 23


def bin_path(prefix: Path) -> Path:
    """The file of the rows."""
    return prefix.with_name(prefix.name + ".bin")


def idx_path(prefix: Path) -> Path:
    """The file of the rows' lengths and places."""
    return prefix.with_name(prefix.name + ".idx")


@dataclass(frozen=True, kw_only=True)
class ArrayChecksums:
    """What a .bin and its .idx held when they were written.

    Attributes:
        idx_sha256: of the .idx.
        bin_blocks: uint32, of every block of the .bin; None where they are not known.
    """

    idx_sha256: str
    bin_blocks: NDArray[np.uint32] | None


class IndexedWriter:
    """Writes rows one after the other; memory does not grow with their number.

    Args:
        bin_file: where the rows go.
        idx_file: a file with a name, since its lengths are read again for what follows them.
        dtype: of the values: uint8, int32, float64 or float32.

    Attributes:
        bin_blocks: checksums of the .bin so far.
    """

    def __init__(self, bin_file: BinaryIO, idx_file: BinaryIO, dtype: str = "int32") -> None:
        self._bin_file = bin_file
        self._idx_file = idx_file
        self._code = _DTYPE_CODES[dtype]
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._digest = hashlib.sha256()
        self.bin_blocks = BlockChecksums()
        self._size = 0
        self._num_bytes_flushed = 0  # whose writing to the disk was started
        self._num_rows = 0
        self._num_documents = 0
        self._documents: list[NDArray[np.int32]] = []  # rows of each; empty while every row is one
        self._idx_file.write(bytes(_HEADER.size))

    def append(
        self, rows: NDArray[Any], lengths: NDArray[np.int32], documents: NDArray[np.int32] | None = None
    ) -> None:
        """Append rows of these `lengths`, which lie one after the other in `rows`.

        Args:
            rows: the values of all of them.
            lengths: int32 [num_rows].
            documents: how many of the rows each document has; by default every row is a document.
        """
        assert len(rows) == lengths.sum()
        self._append_documents(lengths, documents)
        data = rows.astype(self._dtype, copy=False).data.cast("B") if len(rows) else b""
        self._bin_file.write(data)
        self._digest.update(data)
        self.bin_blocks.update(data)
        self._size += len(data)
        if self._size - self._num_bytes_flushed >= _BYTES_TO_START_WRITING:
            start_writing_out(self._bin_file, self._num_bytes_flushed, self._size)
            self._num_bytes_flushed = self._size
        self._num_rows += len(lengths)
        self._idx_file.write(lengths.astype("<i4", copy=False).tobytes())

    def _append_documents(self, lengths: NDArray[np.int32], documents: NDArray[np.int32] | None) -> None:
        if documents is None or (documents == 1).all():
            documents = np.ones(len(lengths), np.int32)
        elif not self._documents:
            self._documents.append(np.ones(self._num_documents, np.int32))
        assert documents.sum() == len(lengths)
        if self._documents:
            self._documents.append(documents)
        self._num_documents += len(documents)

    def discard(self) -> None:
        """Leave both files empty."""
        for file in (self._bin_file, self._idx_file):
            file.seek(0)
            file.truncate()

    def finish(self) -> tuple[FileEntry, FileEntry]:
        """Complete the .idx, after which nothing can be appended; what the .bin and the .idx hold."""
        index = self._idx_file
        index.flush()
        end = 0
        with open(index.name, "rb") as written:
            written.seek(_HEADER.size)
            for start in range(0, self._num_rows, _BLOCK_ROWS):
                count = min(_BLOCK_ROWS, self._num_rows - start)
                lengths = np.frombuffer(written.read(count * _LENGTH_BYTES), "<i4")
                sizes = lengths * np.int64(self._dtype.itemsize)
                ends = end + np.cumsum(sizes)
                index.write((ends - sizes).astype("<i8").tobytes())
                end = int(ends[-1])
        for boundaries in self._boundaries():
            index.write(boundaries.astype("<i8", copy=False).tobytes())
        size = index.tell()
        index.seek(0)
        header = _HEADER.pack(_MAGIC, _VERSION, self._code, self._num_rows, self._num_documents + 1)
        index.write(header)
        index.flush()
        with open(index.name, "rb") as written:
            digest = hashlib.file_digest(written, "sha256").hexdigest()
        return (
            FileEntry(size=self._size, sha256=self._digest.hexdigest()),
            FileEntry(size=size, sha256=digest),
        )

    def _boundaries(self) -> Iterator[NDArray[np.int64]]:
        """Where the documents begin, in rows, and where the last one ends."""
        if self._documents:
            yield np.concatenate([[0], np.cumsum(np.concatenate(self._documents), dtype=np.int64)])
            return
        for start in range(0, self._num_rows + 1, _BLOCK_ROWS):
            yield np.arange(start, min(start + _BLOCK_ROWS, self._num_rows + 1), dtype=np.int64)


class IndexedReader:
    """Rows from {prefix}.bin and {prefix}.idx, mapped into memory.

    Args:
        prefix: path of the two files without .bin or .idx.
        dtype: which the values must have; None for any.
        checksums: of the files, which are compared with what is read: the .idx now, a row of the .bin when it
            is first read; None to take them as they are.

    Attributes:
        dtype: uint8, int32, float64 or float32.
        lengths: int32 [num_rows].
        documents: int32, rows of each document; ModelLink's empty documents are left out.

    Raises:
        UserError: a file is missing, of another kind, cut off, or changed.
    """

    def __init__(
        self, prefix: Path, dtype: str | None = "int32", *, checksums: ArrayChecksums | None = None
    ) -> None:
        index = _read(idx_path(prefix))
        if checksums is not None and hashlib.sha256(index).hexdigest() != checksums.idx_sha256:
            raise UserError(
                f"{idx_path(prefix)} has changed since it was written: copy it again from where it is whole, "
                "or preprocess the data again"
            )
        if len(index) < _HEADER.size:
            raise UserError(
                f"{idx_path(prefix)} is cut off: it holds {len(index)} bytes, less than its header"
            )
        magic, version, code, num_rows, num_boundaries = _HEADER.unpack_from(index)
        if magic != _MAGIC or version != _VERSION:
            raise UserError(f"{idx_path(prefix)} is not a Megatron indexed dataset of version {_VERSION}")
        names = {number: name for name, number in _DTYPE_CODES.items()}
        self.dtype = names.get(code, "")
        expected_codes = names if dtype is None else [_DTYPE_CODES[dtype]]
        if code not in expected_codes:
            wanted = " or ".join(f"{names[number]} ({number})" for number in expected_codes)
            raise UserError(f"{idx_path(prefix)} holds values of Megatron's dtype code {code}, not {wanted}")
        expected = _HEADER.size + num_rows * (4 + 8) + num_boundaries * 8
        if len(index) != expected:
            raise UserError(f"{idx_path(prefix)} is damaged: it has {len(index)} bytes instead of {expected}")
        self.lengths: NDArray[np.int32] = np.frombuffer(index, "<i4", num_rows, _HEADER.size)
        pointers = np.frombuffer(index, "<i8", num_rows, _HEADER.size + 4 * num_rows)
        boundaries = np.frombuffer(index, "<i8", num_boundaries, _HEADER.size + 12 * num_rows)
        counts = np.diff(boundaries)
        if np.any(counts < 0) or counts.sum() != num_rows:
            raise UserError(f"{idx_path(prefix)} is damaged: its documents are not its {num_rows} rows")
        self.documents: NDArray[np.int32] = counts[counts != 0].astype(np.int32)
        self._starts: NDArray[np.int64] = pointers // np.dtype(self.dtype).itemsize
        self._items = _mapped_items(bin_path(prefix), np.dtype(self.dtype).newbyteorder("<"))
        num_items = int(self.lengths.sum(dtype=np.int64))
        if len(self._items) != num_items:
            raise UserError(
                f"{bin_path(prefix)} is damaged: it has {len(self._items)} values, its .idx says {num_items}"
            )
        if np.any(self._starts < 0) or np.any(self._starts + self.lengths > num_items):
            raise UserError(f"{idx_path(prefix)} is damaged: it points outside of its .bin")
        self._blocks = None
        if checksums is not None and checksums.bin_blocks is not None:
            data = self._items.data.cast("B") if num_items else memoryview(b"")
            self._blocks = VerifiedBlocks(bin_path(prefix), data, checksums.bin_blocks)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, row: int) -> NDArray[Any]:
        """Row `row`, [length], a view of the file.

        Raises:
            UserError: the file is not what was written.
        """
        start = self._starts[row]
        stop = start + self.lengths[row]
        self._verify(int(start), int(stop))
        return self._items[start:stop]

    def verify_all(self) -> None:
        """Compare every block of the .bin with its checksum.

        Raises:
            UserError: the file is not what was written.
        """
        self._verify(0, len(self._items))

    def _verify(self, start: int, stop: int) -> None:
        if self._blocks is not None:
            self._blocks.verify(start * self._items.itemsize, stop * self._items.itemsize)

    def first_and_last(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """The first and the last value of every row, none of which is empty; reads every value."""
        self.verify_all()
        return self._items[self._starts], self._items[self._starts + self.lengths - 1]

    def has_nan(self) -> bool:
        """Whether some value is no number; reads every value, which are of a floating-point type."""
        self.verify_all()
        return bool(np.isnan(self._items).any())

    def first_row_outside(self, num_ids: int) -> int | None:
        """The first row that is empty or holds a value outside of [0, num_ids); reads every value."""
        self.verify_all()
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


def _mapped_items(path: Path, dtype: np.dtype[Any]) -> NDArray[Any]:
    try:
        size = path.stat().st_size
        if size % dtype.itemsize:
            raise UserError(f"{path} is damaged: its {size} bytes are no whole number of {dtype.name} values")
        if size == 0:  # an empty file cannot be mapped
            return np.empty(0, dtype)
        # A plain array: slicing np.memmap itself costs ten times as much a row.
        return np.asarray(np.memmap(path, dtype=dtype, mode="r"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
