"""The file of a run's finished parts, from which --resume continues and shards are merged."""

import contextlib
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from modellink_rm.base.errors import UserError
from modellink_rm.base.files import exclusive, write_in_one_call
from modellink_rm.preprocess.identity import RunIdentity, first_difference
from modellink_rm.preprocess.rows import Rows, from_file

_MAGIC = b"MLRMPART3"
_END = b"MLRMDONE"


def parts_path(prefix: Path, shard_index: int = 0, num_shards: int = 1) -> Path:
    """The file of a run's parts: hidden for a whole run, {prefix}_shard_2_of_8.parts for a shard."""
    if num_shards == 1:
        return prefix.with_name(f".{prefix.name}.parts")
    return prefix.with_name(f"{prefix.name}_shard_{shard_index}_of_{num_shards}.parts")


class Parts:
    """An open file of parts, locked so that no second run uses its name."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path = path
        self._file = file

    def start(self, identity: RunIdentity) -> None:
        """Discard all parts."""
        self._file.truncate(0)
        self._file.seek(0)
        self._file.write(_MAGIC)
        self.append(_with_checksum(identity.to_json()))

    def holds_parts(self) -> bool:
        """Whether an earlier run left parts."""
        return os.fstat(self._file.fileno()).st_size > len(_MAGIC)

    def append(self, part: bytes) -> None:
        """Add the bytes of one part."""
        write_in_one_call(self._file, len(part).to_bytes(8, "little") + part, self.path)

    def end(self) -> None:
        """Mark the file as complete."""
        self.append(_END)

    def check(self, identity: RunIdentity) -> None:
        """Check that the parts of an earlier run can be continued.

        Raises:
            UserError: they are from a run with other flags, or on another input.
        """
        self._file.seek(0)
        found = _read_identity(self._file)
        difference = first_difference(found, identity.to_json()) if found else None
        if difference:
            raise UserError(
                f"--resume: {self.path} is of a run with another {difference}; "
                "run with the same flags, or without --resume to start over"
            )

    def whole_parts(self, identity: RunIdentity) -> Iterator[Rows]:
        """The parts that an earlier run finished; afterwards further parts can be added."""
        self._file.seek(0)
        if _read_identity(self._file) is None:
            self.start(identity)
            return
        end = self._file.tell()
        for part in _frames(self._file):
            rows = from_file(part)
            if rows is None:
                break
            yield rows
            end = self._file.tell()
        self._file.truncate(end)
        self._file.seek(end)

    def remove(self) -> None:
        """Delete the file."""
        self.path.unlink(missing_ok=True)


@contextlib.contextmanager
def locked_parts(path: Path, *, flag: str) -> Iterator[Parts]:
    """The parts file of that name, locked by this process until the block ends; an empty one is removed.

    Raises:
        UserError: another living process has locked it.
    """
    message = (
        f"{flag}: another run is writing it ({path} is locked); wait for its end, or give another prefix"
    )
    with exclusive(path, message) as file:
        parts = Parts(path, file)
        try:
            yield parts
        finally:
            if not parts.holds_parts():
                parts.remove()


def read_shard(path: Path) -> tuple[RunIdentity, Iterator[Rows]]:
    """The identity of a shard's run, and its parts, whose iterator fails if the shard is incomplete.

    Raises:
        UserError: the file is missing, holds no parts, or is of another version of the package.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    identity = _read_identity(file)
    if identity is None:
        raise UserError(f"{path} holds no parts of a run: run that shard again")
    try:
        return RunIdentity.from_json(identity), _rows_of_shard(path, file)
    except KeyError as error:
        raise UserError(f"{path} is of another version, without {error}: run that shard again") from None
    except (TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}): run that shard again") from None


def _rows_of_shard(path: Path, file: BinaryIO) -> Iterator[Rows]:
    with file:
        for part in _frames(file):
            if part == _END:
                return
            rows = from_file(part)
            if rows is None:
                break
            yield rows
    raise UserError(f"{path} is not complete: run that shard again, with --resume to continue it")


def _with_checksum(data: bytes) -> bytes:
    return data + zlib.crc32(data).to_bytes(4, "little")


def _read_identity(file: BinaryIO) -> bytes | None:
    """The identity that a file of parts begins with, as JSON; None if it is incomplete."""
    if file.read(len(_MAGIC)) != _MAGIC:
        return None
    data = next(_frames(file), b"")
    if len(data) < 4 or _with_checksum(data[:-4]) != data:
        return None
    return data[:-4] if _is_object(data[:-4]) else None


def _is_object(content: bytes) -> bool:
    try:
        return isinstance(json.loads(content), dict)
    except (ValueError, RecursionError):
        return False


def _frames(file: BinaryIO) -> Iterator[bytes]:
    """The bytes of the parts, up to an incomplete one."""
    file_size = os.fstat(file.fileno()).st_size
    while len(head := file.read(8)) == 8:
        size = int.from_bytes(head, "little")
        if size > file_size - file.tell():
            return
        yield file.read(size)
