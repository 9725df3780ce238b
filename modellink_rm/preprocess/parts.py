"""The file of a run's finished parts, from which --resume continues and shards are merged."""

import contextlib
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import BinaryIO

from modellink_rm.base.errors import UserError
from modellink_rm.base.files import exclusive
from modellink_rm.base.parts import PartsFile, frames, read_identity, removed_if_empty
from modellink_rm.preprocess.identity import RunIdentity
from modellink_rm.preprocess.rows import Rows, from_file

_MAGIC = b"MLRMPART4"
_END = b"MLRMDONE"


def parts_path(prefix: Path, shard_index: int = 0, num_shards: int = 1) -> Path:
    """The file of a run's parts: hidden for a whole run, {prefix}_shard_2_of_8.parts for a shard."""
    if num_shards == 1:
        return prefix.with_name(f".{prefix.name}.parts")
    return prefix.with_name(f"{prefix.name}_shard_{shard_index}_of_{num_shards}.parts")


class Parts(PartsFile):
    """An open file of parts, locked so that no second run uses its name."""

    def start(self, identity: RunIdentity) -> None:
        """Discard all parts."""
        self.start_over(identity.to_json())

    def end(self, input_crc32: int) -> None:
        """Mark the file as complete; the checksum is of all records of the input, other shards' too."""
        self.append(_END + f"{input_crc32:08x}".encode())

    def check(self, identity: RunIdentity) -> None:
        """Check that the parts of an earlier run can be continued.

        Raises:
            UserError: they are from a run with other flags, or on another input.
        """
        self.check_identity(identity.to_json())

    def whole_parts(self, identity: RunIdentity) -> Iterator[Rows]:
        """The parts that an earlier run finished; afterwards further parts can be added."""
        found = self.parts()
        if found is None:
            self.start(identity)
            return
        end = self.position()
        for part in found:
            rows = from_file(part)
            if rows is None:
                break
            yield rows
            end = self.position()
        self.end_at(end)


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
        parts = Parts(path, file, magic=_MAGIC)
        with removed_if_empty(parts):
            yield parts


def read_shard(path: Path) -> tuple[RunIdentity, Generator[Rows, None, str]]:
    """The identity of a shard's run, and its parts, whose iterator fails if the shard is incomplete.

    It returns the checksum of the whole input, empty in a shard of before there was one.

    Raises:
        UserError: the file is missing, holds no parts, or is of another version of the package.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    identity = read_identity(file, _MAGIC)
    if identity is None:
        raise UserError(f"{path} holds no parts of a run: run that shard again")
    try:
        return RunIdentity.from_json(identity), _rows_of_shard(path, file)
    except KeyError as error:
        raise UserError(f"{path} is of another version, without {error}: run that shard again") from None
    except (TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}): run that shard again") from None


def _rows_of_shard(path: Path, file: BinaryIO) -> Generator[Rows, None, str]:
    with file:
        for part in frames(file):
            if part.startswith(_END):
                return part.removeprefix(_END).decode("latin-1")
            rows = from_file(part)
            if rows is None:
                break
            yield rows
    raise UserError(f"{path} is not complete: run that shard again, with --resume to continue it")
