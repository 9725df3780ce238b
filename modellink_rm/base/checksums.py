"""Checksums of what is written, and their comparison with what is read."""

import hashlib
import json
import zlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modellink_rm.base.errors import UserError

# Rows are read in random order: a block is what one row costs at its first read, 40 microseconds at zlib's
# 1.5 GB/s a core. The checksums are a 16384th of the data.
BLOCK_BYTES = 1 << 16
_SEAL = "checksum"
_THREADS = 4  # hashing lets other threads run


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """Size in bytes and checksum in hex of one file."""

    size: int
    sha256: str


class BlockChecksums:
    """CRC-32 of every block of BLOCK_BYTES of a stream, as it is written; the last block may be shorter."""

    def __init__(self) -> None:
        self._whole: list[int] = []
        self._crc = 0
        self._filled = 0

    def update(self, data: bytes | memoryview) -> None:
        """Take in the bytes that follow."""
        view = memoryview(data)
        while len(view):
            piece = view[: BLOCK_BYTES - self._filled]
            self._crc = zlib.crc32(piece, self._crc)
            self._filled += len(piece)
            view = view[len(piece) :]
            if self._filled == BLOCK_BYTES:
                self._whole.append(self._crc)
                self._crc = self._filled = 0

    def values(self) -> NDArray[np.uint32]:
        """uint32 [num_blocks], little-endian."""
        last = [self._crc] if self._filled else []
        return np.array([*self._whole, *last], "<u4")


class VerifiedBlocks:
    """The bytes of a file that is mapped into memory, each block compared with its checksum when first read.

    Args:
        path: of the file, for messages.
        data: its bytes.
        checksums: uint32 [num_blocks], of BLOCK_BYTES each.
    """

    def __init__(self, path: Path, data: memoryview, checksums: NDArray[np.uint32]) -> None:
        self._path = path
        self._data = data
        self._checksums = checksums
        self._is_verified = bytearray(len(checksums))

    def verify(self, start: int, stop: int) -> None:
        """Make sure that bytes `start` to `stop` are those that were written.

        Raises:
            UserError: they are not.
        """
        if start == stop:
            return
        for block in range(start // BLOCK_BYTES, (stop - 1) // BLOCK_BYTES + 1):
            if not self._is_verified[block]:
                self._verify_block(block)
                self._is_verified[block] = 1  # two threads may both have done it

    def _verify_block(self, block: int) -> None:
        first = block * BLOCK_BYTES
        data = self._data[first : first + BLOCK_BYTES]
        if zlib.crc32(data) != self._checksums[block]:
            raise UserError(
                f"{self._path} has changed since it was written, in its bytes {first} to "
                f"{first + len(data) - 1}: copy it again from where it is whole, or preprocess the data again"
            )


def num_blocks(size: int) -> int:
    """How many blocks a file of `size` bytes has."""
    return -(-size // BLOCK_BYTES)


def sha256_of(path: Path) -> str:
    """The checksum of a file, read in pieces.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_all(paths: Iterable[Path]) -> list[str]:
    """The checksums of files, several read at a time.

    Raises:
        OSError: one cannot be read.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(sha256_of, paths))


def sealed_json(values: dict[str, Any], *, indent: int) -> bytes:
    """`values` as JSON whose last field is the checksum of the others."""
    sealed = {**values, _SEAL: _seal_of(values)}
    return (json.dumps(sealed, indent=indent, ensure_ascii=False) + "\n").encode()


def unsealed(values: dict[str, Any]) -> dict[str, Any]:
    """The fields of what `sealed_json` wrote, without the checksum.

    Raises:
        ValueError: they are not what was written.
    """
    fields = {name: value for name, value in values.items() if name != _SEAL}
    if values.get(_SEAL) != _seal_of(fields):
        raise ValueError("its contents are not those of its checksum")
    return fields


def _seal_of(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
