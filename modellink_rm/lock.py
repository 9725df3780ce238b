"""One process at a time in a directory."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from modellink_rm.errors import UserError


@contextmanager
def exclusive(path: Path, message: str) -> Iterator[None]:
    """Hold a lock on the file `path`, which is made if need be; a process that dies lets go of it.

    Args:
        message: what to tell where another process holds it.

    Raises:
        UserError: another process holds it.
    """
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(message) from None
        yield
