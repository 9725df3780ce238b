"""A file of the finished parts of a long run, from which --resume continues."""

import contextlib
import hashlib
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from modellink_rm.base.errors import UserError
from modellink_rm.base.files import write_in_one_call

_HASHED_BYTES = 1 << 16  # of each end of a file


class InputChangedError(UserError):
    """The input has changed since the run that --resume continues."""


class PartsFile:
    """An open file of parts after an identity, JSON of all that determines them; the holder locks it.

    Args:
        path: of the file.
        file: open for reading and writing, without a buffer.
        magic: its first bytes, of fixed length, which change with the form of the parts.
    """

    def __init__(self, path: Path, file: BinaryIO, *, magic: bytes) -> None:
        self.path = path
        self._file = file
        self._magic = magic

    def start_over(self, identity: bytes) -> None:
        """Discard all parts."""
        self._file.truncate(0)
        self._file.seek(0)
        self._file.write(self._magic)
        self.append(with_checksum(identity))

    def holds_parts(self) -> bool:
        """Whether an earlier run left parts."""
        return os.fstat(self._file.fileno()).st_size > len(self._magic)

    def append(self, part: bytes) -> None:
        """Add the bytes of one part."""
        write_in_one_call(self._file, len(part).to_bytes(8, "little") + part, self.path)

    def check_identity(self, identity: bytes) -> None:
        """Check that the parts of an earlier run can be continued.

        Raises:
            UserError: they are from a run with other flags, or on another input.
        """
        self._file.seek(0)
        found = read_identity(self._file, self._magic)
        difference = first_difference(found, identity) if found else None
        if difference:
            raise UserError(
                f"--resume: {self.path} is of a run with another {difference}; "
                "run with the same flags, or without --resume to start over"
            )

    def parts(self) -> Iterator[bytes] | None:
        """The parts that an earlier run left, perhaps the last of them damaged; None without an identity."""
        self._file.seek(0)
        return frames(self._file) if read_identity(self._file, self._magic) is not None else None

    def position(self) -> int:
        """Where the part ends that `parts` returned last."""
        return self._file.tell()

    def end_at(self, position: int) -> None:
        """Cut the file there; further parts follow."""
        self._file.truncate(position)
        self._file.seek(position)

    def remove(self) -> None:
        """Delete the file."""
        self.path.unlink(missing_ok=True)


@contextlib.contextmanager
def removed_if_empty(parts: PartsFile) -> Iterator[None]:
    """Delete the file at the end of the block where it holds nothing."""
    try:
        yield
    finally:
        if not parts.holds_parts():
            parts.remove()


def frames(file: BinaryIO) -> Iterator[bytes]:
    """The bytes of the parts, up to an incomplete one."""
    file_size = os.fstat(file.fileno()).st_size
    while len(head := file.read(8)) == 8:
        size = int.from_bytes(head, "little")
        if size > file_size - file.tell():
            return
        yield file.read(size)


def with_checksum(data: bytes) -> bytes:
    """The bytes, and four of their CRC-32."""
    return data + zlib.crc32(data).to_bytes(4, "little")


def without_checksum(data: bytes) -> bytes | None:
    """The bytes that `with_checksum` was given; None if they are incomplete."""
    return data[:-4] if len(data) >= 4 and with_checksum(data[:-4]) == data else None


def read_identity(file: BinaryIO, magic: bytes) -> bytes | None:
    """The identity that a file of parts begins with, as JSON; None if it is incomplete."""
    if file.read(len(magic)) != magic:
        return None
    identity = without_checksum(next(frames(file), b""))
    return identity if identity is not None and _is_object(identity) else None


def first_difference(one: bytes, other: bytes) -> str | None:
    """The first name whose values differ between two identities."""
    first, second = json.loads(one), json.loads(other)
    names = sorted(first.keys() | second.keys())
    return next((name for name in names if first.get(name) != second.get(name)), None)


def file_identity(path: Path) -> tuple[str, int, str]:
    """The name and size of a file, and a hash of its first and last bytes."""
    size = path.stat().st_size
    with path.open("rb") as file:
        digest = hashlib.sha256(file.read(_HASHED_BYTES))
        file.seek(max(0, size - _HASHED_BYTES))
        digest.update(file.read())
    return path.name, size, digest.hexdigest()


def _is_object(content: bytes) -> bool:
    try:
        return isinstance(json.loads(content), dict)
    except (ValueError, RecursionError):
        return False
