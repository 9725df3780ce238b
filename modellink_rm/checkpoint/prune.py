"""Removing the older checkpoints of a run; read without torch."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from modellink_rm.base.files import REPLACED, remove_remains
from modellink_rm.base.log import warn_once
from modellink_rm.checkpoint.files import FILES_NAME
from modellink_rm.checkpoint.layout import LATEST_NAME, checkpoint_directories, iteration_of
from modellink_rm.report.best import FILE_NAME as BEST_NAME
from modellink_rm.report.run_files import run_file_paths

UNFINISHED = ".tmp"  # after the name of what is being written, or removed


@dataclass(frozen=True, kw_only=True)
class Retention:
    """Which checkpoints of a run are kept; without either, all.

    Attributes:
        keep_last: how many of the newest; 1 if only `interval` is given.
        interval: all whose iteration is a multiple of it, besides.
    """

    keep_last: int | None = None
    interval: int | None = None

    def outdated(self, iterations: Collection[int], newest: int) -> list[int]:
        """Those of the iterations that need not be kept.

        Never the newest, nor what is beyond it, which is of a run that was taken back to `newest`; nor
        iteration 0, which no run has written.
        """
        if self.keep_last is None and self.interval is None:
            return []
        older = sorted((one for one in iterations if 0 < one < newest), reverse=True)
        past_last = older[(self.keep_last or 1) - 1 :]
        return [one for one in past_last if not (self.interval and one % self.interval == 0)]


def prune(root: Path, newest: int, retention: Retention, kept: Collection[int] = ()) -> list[Path]:
    """Remove the checkpoints under `root` that are outdated and that nobody reads; those removed.

    What cannot be removed now, since a process reads it, is after a later save.

    Args:
        newest: iteration of the newest whole checkpoint.
        kept: iterations that are kept besides, such as the best.
    """
    directories = {iteration_of(path): path for path in checkpoint_directories(root)}
    outdated = [one for one in retention.outdated(directories, newest) if one not in kept]
    return [directories[one] for one in sorted(outdated) if _removed(directories[one])]


def remove_unfinished(root: Path) -> None:
    """Remove what killed runs were writing or removing under `root`; nobody may be at it now.

    A checkpoint that was to be replaced, and whose place is empty, takes it again.
    """
    for path in root.glob(f"iter_*{REPLACED}"):
        if not path.with_suffix("").exists():
            os.replace(path, path.with_suffix(""))
    for suffix in (UNFINISHED, REPLACED):
        for path in root.glob(f"iter_*{suffix}"):
            shutil.rmtree(path, ignore_errors=True)
    remove_remains([root / LATEST_NAME, root / BEST_NAME, *run_file_paths(root)])


@contextlib.contextmanager
def in_use(checkpoint: Path) -> Iterator[None]:
    """A block in which no run removes the checkpoint; a checkpoint that is not there is no error.

    On a file system without locks it may be removed nevertheless, which `reading` then notices.
    """
    with _lock(checkpoint, fcntl.LOCK_SH):
        yield


def _removed(checkpoint: Path) -> bool:
    """Whether the checkpoint could be removed; first it loses its name, so that no part looks like it."""
    trash = checkpoint.with_name(checkpoint.name + UNFINISHED)
    try:
        with _lock(checkpoint, fcntl.LOCK_EX | fcntl.LOCK_NB):
            shutil.rmtree(trash, ignore_errors=True)
            os.replace(checkpoint, trash)
        shutil.rmtree(trash)
    except BlockingIOError:
        return False
    except OSError as error:
        warn_once(f"{checkpoint} could not be removed: {error.strerror}")
        return False
    return True


@contextlib.contextmanager
def _lock(checkpoint: Path, kind: int) -> Iterator[None]:
    """Hold a lock on the checkpoint's list of files, where the file system has locks.

    Of the open file: a lock of the process (`lockf`) would end where any part of it closes that file.

    Raises:
        BlockingIOError: others hold one, and `kind` does not wait.
    """
    try:
        descriptor = os.open(checkpoint / FILES_NAME, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        yield
        return
    try:
        try:
            fcntl.flock(descriptor, kind)
        except BlockingIOError:
            raise
        except OSError:
            pass
        yield
    finally:
        os.close(descriptor)
