"""The lock by which a run keeps others out of its --save, held by the first process."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from modellink_rm.base.files import check_not_lost, exclusive
from modellink_rm.base.log import is_first_process

_NAME = ".lock"


def locked(save: str | None) -> AbstractContextManager[object]:
    """A block in which no other run writes to --save.

    Raises:
        UserError: one does already.
    """
    if save is None or not is_first_process():
        return nullcontext()
    return exclusive(Path(save) / _NAME, f"--save {save} is in use by another run; give another one")


def check_locked(save: str | None) -> None:
    """The directory --save is still the one that was locked.

    Raises:
        UserError: on the first process: it was moved, removed or made anew, and may be another run's by now.
    """
    if save is not None:
        check_not_lost(
            Path(save) / _NAME,
            f"--save {save}, or {_NAME} in it, was moved, removed or replaced while the run was going on; "
            "put it back and start the run again",
        )
