"""Files that appear under their names only when whole."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def whole_files(paths: Sequence[Path], *, optional: Sequence[Path] = ()) -> Iterator[list[BinaryIO]]:
    """Binary files to write, which take the names `paths` together when the block ends well.

    Until then they have temporary names beside their own; an exception in the block removes them.

    Args:
        paths: final names of the files.
        optional: those of them that, where they are empty at the end, are not to be there: an older file
            of such a name is removed.
    """
    temporaries = [path.with_name(f".{path.name}.{os.getpid()}.tmp") for path in paths]
    files: list[BinaryIO] = []
    try:
        for temporary in temporaries:
            files.append(temporary.open("wb"))
        yield files
        for file in files:
            file.flush()
            os.fsync(file.fileno())
            file.close()
        pairs = list(zip(temporaries, paths, strict=True))
        unused = [path for temporary, path in pairs if path in optional and not temporary.stat().st_size]
        for path in unused:
            path.unlink(missing_ok=True)
        _rename_all([pair for pair in pairs if pair[1] not in unused])
    finally:
        for file in files:
            file.close()
        for temporary in temporaries:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """One binary file to write, which takes the name `path` when the block ends well."""
    with whole_files([path]) as (file,):
        yield file


def start_writing_out(file: BinaryIO, start: int, end: int) -> None:
    """Have the system write bytes `start` to `end` to the disk while the program goes on.

    The wait for the disk before a file takes its name is then short. Linux begins to write what it is
    told that nobody needs; elsewhere nothing happens.
    """
    if hasattr(os, "posix_fadvise"):
        file.flush()
        with contextlib.suppress(OSError):  # a hint: the file system may not know it
            os.posix_fadvise(file.fileno(), start, end - start, os.POSIX_FADV_DONTNEED)


def _rename_all(pairs: Sequence[tuple[Path, Path]]) -> None:
    renamed: list[Path] = []
    try:
        for temporary, path in pairs:
            renamed.append(path)
            os.replace(temporary, path)
    except BaseException:
        # A part of the files under their final names would look like the whole.
        for path in renamed:
            path.unlink(missing_ok=True)
        raise
    for directory in {path.parent for _, path in pairs}:
        _sync_directory(directory)


def _sync_directory(directory: Path) -> None:
    """Make renames in `directory` survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
