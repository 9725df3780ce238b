"""One process at a time in a directory."""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from modellink_rm.base.errors import UserError

# A killed process may take a moment to go; lockf, unlike flock, is not kept by its forked children,
SECONDS_FOR_A_DYING_RUN = 10.0


@contextmanager
def exclusive(path: Path, message: str) -> Iterator[None]:
    """Hold a lock on the file `path`, which is made if need be; processes that die let go of it.

    Args:
        message: what to tell where another process holds it.

    Raises:
        UserError: another process holds it.
    """
    deadline = time.monotonic() + SECONDS_FOR_A_DYING_RUN
    with path.open("a") as file:
        while True:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except (BlockingIOError, PermissionError):
                if time.monotonic() > deadline:
                    raise UserError(message) from None
                time.sleep(0.1)
        yield
