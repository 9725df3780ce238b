"""Files and directories that appear under their names only when whole, and locks on them."""

import contextlib
import errno
import fcntl
import glob
import io
import itertools
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

from modellink_rm.base.errors import UserError

# A run that was killed a moment ago may still be exiting; its locks are free when it is gone.
SECONDS_FOR_A_DYING_RUN = 5.0
REPLACED = ".old"  # after the name of a directory while another one takes its place
_BUFFER_BYTES = 1 << 17
_OF_A_CHECKPOINT = ("run.json", "files.json")  # as checkpoint/layout.py names them
_held: dict[Path, io.FileIO] = {}  # by this process
_temporaries = itertools.count()  # one file may be written while another of that name is


def check_outputs(outputs: Iterable[tuple[str, Path]], *, inputs: Iterable[Path]) -> None:
    """Nothing that is written is read by the same command, lies in a checkpoint, or is written twice.

    Links are followed, and names that differ in case alone are one file where the file system says so.

    Args:
        outputs: each with its flag as messages name it.
        inputs: files that are read, and directories in which nothing may be written.

    Raises:
        UserError: an output is an input, lies in one or in a checkpoint, is no regular file, or is another
            output too.
    """
    read = {_identity(path): path for path in inputs}
    written: dict[object, str] = {}
    for flag, path in outputs:
        resolved = _resolved(path)
        # NEW/../FILE is there by its resolved name alone, and a pipe, as /dev/stdout may be, by its own.
        is_other = any(place.exists() and not place.is_file() for place in (path, resolved))
        if is_other or _is_of_process(path):
            raise UserError(f"{flag}: {path} is not a regular file; name one that may be replaced")
        for place in (path, *resolved.parents):
            found = read.get(_identity(place))
            if found is not None:
                lies = "is" if place is path else "lies in"
                raise UserError(f"{flag}: {path} {lies} {found}, which this command reads; give another name")
        check_in_no_checkpoint(flag, path)
        # Two files that are not there yet, and would be one where names have no case.
        for identity in (_identity(path), str(resolved).casefold()):
            other = written.setdefault(identity, flag)
            if other != flag:
                raise UserError(f"{flag}: {path} is also written by {other}; give another name")


def check_in_no_checkpoint(flag: str, path: Path) -> None:
    """What is written, a file or a directory, lies in no checkpoint, whether or not the command reads it.

    Raises:
        UserError: it does.
    """
    for place in _resolved(path).parents:
        if all((place / name).is_file() for name in _OF_A_CHECKPOINT):
            raise UserError(f"{flag}: {path} lies in the checkpoint {place}; give another name")


def _is_of_process(path: Path) -> bool:
    """Whether it names an open file, as /dev/stdout does: a file in its place would stay for all programs."""
    if not path.is_symlink():
        return False
    return Path("/proc") in Path(path.parent, os.readlink(path)).parent.resolve().parents


def _identity(path: Path) -> object:
    """Equal for two names of one file.

    Directories are made where they are missing before a file is opened: NEW/../FILE is FILE then.
    """
    resolved = _resolved(path)
    for place in (path, resolved):
        with contextlib.suppress(OSError):
            status = place.stat()
            return status.st_dev, status.st_ino
    return str(resolved)


def _resolved(path: Path) -> Path:
    """The path with links followed; of links in a circle, where `Path.resolve` fails, as far as they go."""
    return Path(os.path.realpath(path))


def remove_remains(paths: Iterable[Path], *, of_ended: bool = False) -> None:
    """Delete the temporary files that killed runs left of these.

    Args:
        of_ended: those alone whose process is not there any more, on this machine; without it no other
            process may be writing the files now.
    """
    for path in paths:
        for remains in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
            number = remains.name.removeprefix(f".{path.name}.").partition(".")[0]
            if not of_ended or (number.isdecimal() and not _is_running(int(number))):
                remains.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # another user's; no name that this module gave
        pass
    return True


@contextlib.contextmanager
def whole_files(
    paths: Sequence[Path],
    *,
    optional: Sequence[Path] = (),
    before_renaming: Callable[[], object] = lambda: None,
) -> Iterator[list[BinaryIO]]:
    """Binary files to write, which take the names `paths` together when the block ends well.

    Until then they have temporary names beside their own; an exception in the block removes them.

    Args:
        paths: final names of the files.
        optional: those of them that, where they are empty at the end, are not to be there: an older file
            of such a name is removed.
        before_renaming: called when all of them are whole on the disk and none has its name yet. Files take
            their names one by one: a run that is killed between two of them leaves new ones beside old ones,
            of which a mark that was made here can tell.

    Raises:
        OSError: a file cannot be written; it holds the file's final name.
    """
    pairs = [(path.with_name(f".{path.name}.{os.getpid()}.{next(_temporaries)}.tmp"), path) for path in paths]
    files: list[io.BufferedWriter] = []
    try:
        for temporary, path in pairs:
            files.append(_open_named(temporary, path))
        yield cast("list[BinaryIO]", files)
        for file, path in zip(files, paths, strict=True):
            with naming(path):
                file.flush()
                os.fsync(file.fileno())
                file.close()
        unused = [pair for pair in pairs if pair[1] in optional and not pair[0].stat().st_size]
        _rename_all(
            [pair for pair in pairs if pair not in unused], removed=unused, before_renaming=before_renaming
        )
    finally:
        # What goes wrong here, on a full disk say, would hide what went wrong first.
        for file in files:
            with contextlib.suppress(OSError):
                file.close()
        for temporary, _ in pairs:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """One binary file to write, which takes the name `path` when the block ends well."""
    with whole_files([path]) as (file,):
        yield file


def write_whole(path: Path, content: bytes) -> None:
    """Make `path` a file of these bytes; until it is whole an older one of that name stays.

    Temporary files that killed runs of this machine left of it are deleted.
    """
    remove_remains([path], of_ended=True)
    with whole_file(path) as file:
        file.write(content)


def version_of(path: Path) -> tuple[int, int, int] | None:
    """Something that changes when another file takes the name; None where there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def name_directory(new: Path, path: Path) -> None:
    """Rename the directory `new` to `path`, where nothing is.

    Raises:
        UserError: something is there.
    """
    if os.path.lexists(path):
        raise UserError(f"{path} is there already; give a name that is not")
    os.replace(new, path)
    try:
        _sync_directory(path.parent)
    except OSError:  # it may not be there after a power cut: then it is not there now
        os.replace(path, new)
        raise


def replace_directory(new: Path, old: Path) -> None:
    """Rename the directory `new` to `old`, in place of a directory of that name.

    Two directories cannot be exchanged in one step; one that is replaced stays beside it until the new one
    has its name.
    """
    if not old.exists():
        os.replace(new, old)
    else:
        aside = old.with_name(old.name + REPLACED)
        shutil.rmtree(aside, ignore_errors=True)
        os.replace(old, aside)
        try:
            os.replace(new, old)
        except BaseException:
            os.replace(aside, old)
            raise
        shutil.rmtree(aside)
    _sync_directory(old.parent)


@contextlib.contextmanager
def exclusive(path: Path, message: str) -> Iterator[BinaryIO]:
    """The file `path`, created if necessary, open for reading and writing, and locked by this process.

    The file may be removed within the block. Processes that die let go of it.

    Args:
        message: what to tell where another run holds it.

    Raises:
        UserError: another run, still alive, holds it; or the name is a symbolic link.
    """
    deadline = time.monotonic() + SECONDS_FOR_A_DYING_RUN
    name = path.absolute()
    while name in _held or (file := _locked(path)) is None:
        if time.monotonic() > deadline:
            raise UserError(message)
        time.sleep(0.05)
    _held[name] = file
    try:
        with file:
            yield cast("BinaryIO", file)
    finally:
        del _held[name]


def check_not_lost(path: Path, message: str) -> None:
    """The file that this process holds by `exclusive` still has its name; nothing where it holds none.

    Args:
        message: what to tell where it has not: its directory was moved, removed, or made anew.

    Raises:
        UserError: it has lost it, and another run may hold a file of that name.
    """
    file = _held.get(path.absolute())
    if file is None:
        return
    try:
        if os.path.samestat(os.fstat(file.fileno()), path.stat()):
            return
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError:  # a server of files that does not answer now: the next write tells
        return
    raise UserError(message)


def _locked(path: Path) -> io.FileIO | None:
    """The open file `path` with a lock on it; None if that must be tried again."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise UserError(f"{path} is a symbolic link, whose target would be written over: remove it") from None
    file = _NamedFile(descriptor, "r+b", path)
    try:
        # Unlike flock's, this lock is not kept by forked children of a process that is gone. It is the
        # process's, whoever in it opens the file: `_held` keeps a second one out.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Who had it before may have removed the name between the two calls.
        if os.path.samestat(os.fstat(file.fileno()), path.stat()):
            return file
    except (BlockingIOError, PermissionError, FileNotFoundError):
        pass
    except BaseException:
        file.close()
        raise
    file.close()
    return None


def start_writing_out(file: BinaryIO, start: int, end: int) -> None:
    """Let the system write bytes `start` to `end` to the disk in the background.

    The wait for the disk before a file takes its name is then short. Linux starts writeback on
    POSIX_FADV_DONTNEED; elsewhere nothing happens.
    """
    if hasattr(os, "posix_fadvise"):
        file.flush()
        with contextlib.suppress(OSError):  # a hint: the file system may not know it
            os.posix_fadvise(file.fileno(), start, end - start, os.POSIX_FADV_DONTNEED)


def write_in_one_call(file: BinaryIO, data: bytes, path: Path) -> None:
    """Append to an unbuffered file; a killed process leaves at most this piece torn.

    Raises:
        OSError: there is no space for all of it.
    """
    with naming(path):
        if file.write(data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextlib.contextmanager
def naming(path: Path | str) -> Iterator[None]:
    """Give an OSError that names no file the name `path`: write and fsync do not know theirs."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise


class _NamedFile(io.FileIO):
    """An unbuffered file whose failed writes name it."""

    def __init__(self, file: Path | int, mode: str, path: Path) -> None:
        super().__init__(file, mode)
        self._path = path

    def write(self, data: Any) -> int:
        with naming(self._path):
            return super().write(data)


def _open_named(temporary: Path, path: Path) -> io.BufferedWriter:
    return io.BufferedWriter(_NamedFile(temporary, "wb", path), _BUFFER_BYTES)


def _rename_all(
    pairs: Sequence[tuple[Path, Path]],
    *,
    removed: Sequence[tuple[Path, Path]],
    before_renaming: Callable[[], object],
) -> None:
    """Give the files their names; where one cannot have its own, all that was there before is there again.

    Args:
        removed: pairs whose older files, if there are any, are to go.
        before_renaming: called when the older files are kept and none has changed; may replace some of them.
    """
    older = {path: temporary.with_suffix(".old.tmp") for temporary, path in (*pairs, *removed)}
    changed = [path for path in older if not os.path.lexists(path)]
    try:
        for path, kept in older.items():
            _keep(path, kept)
        before_renaming()
        for _, path in removed:
            path.unlink(missing_ok=True)
            changed.append(path)
        for temporary, path in pairs:
            os.replace(temporary, path)
            changed.append(path)
        for directory in {path.parent for _, path in pairs}:
            _sync_directory(directory)
    except BaseException:
        # A part of the files under their final names would look like the whole.
        for path, kept in older.items():
            _restore(kept, path, removes=path in changed)
        raise
    finally:
        for kept in older.values():
            with contextlib.suppress(OSError):
                kept.unlink()


def _restore(kept: Path, path: Path, *, removes: bool) -> None:
    """Give `path` its older file again; where none was kept, remove what is there if `removes`."""
    try:
        os.replace(kept, path)
    except OSError:
        if removes:
            with contextlib.suppress(OSError):
                path.unlink()


def _keep(path: Path, name: Path) -> None:
    """Give the file `path` a second name, if there is one and the file system knows second names."""
    with contextlib.suppress(OSError):
        os.link(path, name, follow_symlinks=False)


def _sync_directory(directory: Path) -> None:
    """Make renames in `directory` survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        with naming(directory):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
