"""The directory that export or import makes: there is none yet, and no other run is making it."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from modellink_rm.base.errors import UserError
from modellink_rm.base.files import check_in_no_checkpoint, exclusive
from modellink_rm.base.log import is_first_process
from modellink_rm.checkpoint.layout import LATEST_NAME, checkpoint_directory
from modellink_rm.checkpoint.prune import UNFINISHED


def check_is_new(output: str) -> None:
    """There is nothing at --output, or only what a killed import was writing, and it lies in no checkpoint.

    Raises:
        UserError: there is something, or it lies in a checkpoint.
    """
    path = Path(output)
    check_in_no_checkpoint("--output", path)
    if not os.path.lexists(path):
        return
    if path.is_dir() and not path.is_symlink():
        names = [one.name for one in path.iterdir()]
        if names and all(name.startswith("iter_") and name.endswith(UNFINISHED) for name in names):
            return
    raise UserError(f"--output {output} is there already; give a name that is not")


@contextmanager
def making(output: str, *, is_checkpoint: bool = False) -> Iterator[None]:
    """A block in which no other run makes --output; the first process sees to it, and that a failure leaves
    nothing.

    Args:
        is_checkpoint: it is made as the --save of a run, with iter_0000000 in it.

    Raises:
        UserError: another run is making it, or it is there meanwhile.
    """
    if not is_first_process():
        yield
        return
    path = Path(output)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f".{path.name}.lock")
    with exclusive(lock, f"--output {output}: another run is making it; give another name"):
        try:
            check_is_new(output)
            with _nothing_left(path, is_checkpoint=is_checkpoint):
                yield
        finally:
            lock.unlink(missing_ok=True)


@contextmanager
def _nothing_left(path: Path, *, is_checkpoint: bool) -> Iterator[None]:
    """Remove what a failure in the block leaves of the directory."""
    try:
        yield
    except BaseException:
        shutil.rmtree(path.with_name(path.name + UNFINISHED), ignore_errors=True)
        if is_checkpoint:
            for made in path.glob(f"{checkpoint_directory(path, 0).name}*"):
                shutil.rmtree(made, ignore_errors=True)
            with contextlib.suppress(OSError):
                (path / LATEST_NAME).unlink(missing_ok=True)
                path.rmdir()
        raise
