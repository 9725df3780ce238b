"""A disk that is full from the n-th thing on that a command does to it."""

import errno
import functools
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from modellink_rm.base import files
from tests.hostile.commands import (
    GENERATE,
    PREPROCESS,
    TRIALS,
    WRITERS,
    Material,
    Outcome,
    copy_for_writer,
    prepare,
    remains,
    run,
    written,
)

_CREATES = os.O_CREAT | os.O_WRONLY | os.O_RDWR | os.O_APPEND


class FullDisk:
    """Counts what needs room on the disk and fails it from the n-th on; a rename fails only as the n-th.

    Attributes:
        count: writes, syncs, renames, new directories and files opened for writing so far.
    """

    def __init__(self, first: int, directory: Path) -> None:
        self._first = first
        self._directory = str(directory)
        self.count = 0

    def needs(self, *, always: bool = True) -> None:
        """Take note of one thing that needs room.

        Raises:
            OSError: there is none.
        """
        self.count += 1
        if self.count == self._first or (always and self.count > self._first):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def watch(self, event: str, arguments: tuple[Any, ...]) -> None:
        """An audit hook: what Python opens for writing, and the directories it makes, under the trial's."""
        if event == "open" and isinstance(arguments[0], str | bytes):
            name, flags = os.fsdecode(arguments[0]), arguments[2]
            # opening a lock again writes nothing
            if flags & _CREATES and self._is_inside(name) and not os.path.exists(name):
                self._named(name)
        elif event == "os.mkdir" and self._is_inside(os.fsdecode(arguments[0])):
            self._named(os.fsdecode(arguments[0]))

    def _named(self, name: str) -> None:
        try:
            self.needs()
        except OSError as error:
            error.filename = name
            raise

    def _is_inside(self, name: str) -> bool:
        return os.path.abspath(name).startswith(self._directory)


class Killed(FullDisk):
    """Kills the process at the n-th thing, before it is done."""

    def needs(self, *, always: bool = True) -> None:
        """Take note of one thing that needs room."""
        self.count += 1
        if self.count == self._first:
            os.kill(os.getpid(), signal.SIGKILL)


def kill_at(number: int, directory: Path) -> None:
    """Kill this process at the n-th thing that it does to the disk; for the command's own process."""
    _watch(Killed(number, directory))


def fill(first: int, directory: Path) -> None:
    """Let the disk be full from the `first` thing on; for the command's own process."""
    _watch(FullDisk(first, directory))


def _watch(disk: FullDisk) -> None:
    sys.addaudithook(disk.watch)
    write = files._NamedFile.write

    def write_or_fail(self: Any, data: Any) -> int:
        try:
            with files.naming(self._path):
                disk.needs()
        except OSError:
            write(self, memoryview(data)[: len(data) // 2])  # as much as there was room for
            raise
        return write(self, data)

    files._NamedFile.write = write_or_fail  # type: ignore[method-assign]
    for name, always in (("fsync", True), ("replace", False), ("rename", False)):
        setattr(os, name, _failing(getattr(os, name), disk, always=always))


def _failing(function: Callable[..., Any], disk: FullDisk, *, always: bool) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        try:
            disk.needs(always=always)
        except OSError as error:
            if isinstance(arguments[-1], str | os.PathLike):
                error.filename = os.fspath(arguments[-1])
            raise
        return function(*arguments, **options)

    return call


# What was written earlier under the names that the command writes.
_OLD = {
    "preprocess": ("preprocess", f"{PREPROCESS} out --seq-length 70"),
    "merge": ("preprocess", f"{PREPROCESS} shards --seq-length 70"),
    "score": ("score", "--load trained --input old.jsonl --output scores.jsonl"),
    "generate": ("generate", f"{GENERATE} --seed 7 --output answers.jsonl"),
}


def offences(material: Material, command: str, first: int, directory: Path) -> tuple[list[str], bool]:
    """What was wrong with a command whose disk was full from its `first` thing on, and whether it met it."""
    target = with_old_output(material, command, directory)
    before = written(command, target)
    outcome = run(command, TRIALS[command], target, first=functools.partial(fill, first, target))
    if outcome.code == 0:
        return [], False
    told = [] if outcome.is_one_line() else [f"exit code {outcome.code}: {outcome.stderr[-1500:]}"]
    if not command.startswith("train") and written(command, target) != before:
        told.append("the older output is not what it was")
    left = [name for name in remains(target) if not name.endswith(".parts")]
    told += [f"left behind: {left}"] if left else []
    if command.startswith("train"):
        told += _broken_run(command, target)
    return [f"{command}, full from {first} on: {one}" for one in told], True


def writer_offences(material: Material, command: str, first: int, directory: Path) -> tuple[list[str], bool]:
    """As `offences`, of a command of WRITERS: all files stay as they were, an older output too."""
    target = copy_for_writer(material, directory / "trial")
    words, output = WRITERS[command]
    if "." in output:
        (target / output).write_text("what was there")
    before = _files(target)
    outcome = run(command, words, target, first=functools.partial(fill, first, target))
    if outcome.code == 0:
        return [], False
    told = [] if outcome.is_one_line() else [f"exit code {outcome.code}: {outcome.stderr[-1500:]}"]
    changed = sorted(name for name, _ in _files(target).items() ^ before.items())
    told += [f"changed: {changed}"] if changed else []
    return [f"{command}, full from {first} on: {one}" for one in told], True


def _files(directory: Path) -> dict[str, bytes]:
    """Every file and directory, links apart, and what it holds."""
    return {
        str(path.relative_to(directory)): path.read_bytes() if path.is_file() else b""
        for path in directory.rglob("*")
    }


def with_old_output(material: Material, command: str, directory: Path) -> Path:
    """A trial's directory in which the command's output is there already, of other content."""
    prepare(material, command)
    target = material.copy(directory / "trial")
    (target / "old.jsonl").write_text('{"prompt": "a", "response": "b"}')
    if command in _OLD:
        outcome = run(*_OLD[command], target)
        assert outcome.code == 0, outcome.stderr
    return target


def _broken_run(command: str, target: Path) -> list[str]:
    """What keeps a run from going on to its end once there is room."""
    outcome: Outcome = run(command, TRIALS[command], target)
    return [] if outcome.code == 0 else [f"the run cannot go on: {outcome.stderr[-1500:]}"]
