"""Mistakes of users, and how a command reports them."""

import errno
import io
import os
import sys
import time
from collections.abc import Callable, Sequence

from modellink_rm.base.launcher import problem_of_ranks

# How long the other processes of a torchrun wait for the one that prints before they exit too:
# torchrun ends every process as soon as the first one fails.
SECONDS_FOR_THE_MESSAGE = 5.0
# ... and before one tells a mistake that it may have met alone; a busy machine ends processes slowly.
SECONDS_BEFORE_ITS_OWN_MESSAGE = 20.0


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_OF_THE_DISK = (errno.EIO, errno.ESTALE)
# How libraries name a limit of the system, whatever their error's type is, and what a user can do.
_NO_MEMORY = "not enough memory; free some, or ask for less (fewer --workers, a smaller --micro-batch-size)"
_TOO_MANY_FILES = "too many open files; raise the limit, as by ulimit -n 4096"
_NO_THREADS = (
    "not enough memory or processes for one more thread; free some memory, or raise the limits (ulimit -v, "
    "ulimit -u, a container's pids)"
)
_LIMITS = {
    "too many open files": _TOO_MANY_FILES,
    "allocate memory": _NO_MEMORY,
    "out of memory": _NO_MEMORY,
    "resource temporarily unavailable": _NO_THREADS,  # as C++ and fork say
    "can't start new thread": _NO_THREADS,
}


class UserError(ValueError):
    """A user's mistake, in one line: the rule, what was given instead, and what to do.

    What a message quotes, of a file that others made say, may hold line ends and a terminal's commands: they
    are written as escapes.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


def printable(text: str) -> str:
    r"""The text with everything that does not print written as in Python: \n, \x1b."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)


class AgreedError(UserError):
    """A mistake that every process of a run meets at the same point: none waits for another one."""


def listed(values: Sequence[object], *, most: int = 8) -> str:
    """The first values of a message, and how many there are besides: "a, b and 3 more"."""
    shown = ", ".join(map(str, values[:most]))
    return f"{shown} and {len(values) - most} more" if len(values) > most else shown


def run_command(main: Callable[[Sequence[str]], int], argv: Sequence[str]) -> int:
    """Run `main(argv)` and return its exit code; 2 for a user's mistake, 130 for Ctrl-C.

    A mistake is printed on stderr as one line. So are a file that cannot be read or written, on a full disk
    for example, a lack of memory or of open files, and a package that is missing. Under torchrun only the
    first process of each node prints, while the others wait for it.
    """
    problem = problem_of_ranks(os.environ)
    if problem is not None:
        print(f"error: {problem}", file=sys.stderr, flush=True)
        return 2
    _print_any_text()
    try:
        code = main(argv)
        if sys.stdout is not None:  # as after `>&-`
            sys.stdout.flush()
        return code
    except UserError as error:
        print_error(str(error), is_agreed=isinstance(error, AgreedError))
        return 2
    except KeyboardInterrupt:
        # Without a wait: the launcher passes Ctrl-C on to all processes, and stays until the last one ends.
        if _is_first_of_node():
            print("error: interrupted", file=sys.stderr, flush=True)
        return 130
    except BrokenPipeError:  # who reads the output has seen enough, as in `| head`
        drop_output()
        return 0
    except OSError as error:
        message = file_error_message(error)
        if error.errno in _FULL and error.filename is None:
            drop_output()
        message = message or limit_message(error)
        if message is None:
            raise
        print_error(message)
        return 2
    except ImportError as error:
        message = import_message(error)
        if message is None:
            raise
        print_error(message)
        return 2
    except (MemoryError, RuntimeError) as error:
        message = limit_message(error)
        if message is None:
            raise
        # Of this process: the others may have met no limit.
        rank = f" (rank {os.environ['RANK']})" if "RANK" in os.environ else ""
        print(f"error{rank}: {message}", file=sys.stderr, flush=True)
        return 2


def _print_any_text() -> None:
    """Let standard output take every character, whatever the locale; rows are UTF-8 in files and pipes."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        encoding = sys.stdout.encoding if sys.stdout.isatty() else "utf-8"
        sys.stdout.reconfigure(encoding=encoding, errors="backslashreplace")


def file_error_message(error: OSError) -> str | None:
    """One line about a file that cannot be read or written; None if the error is not about a file."""
    what = error.strerror or str(error)
    if error.errno in _FULL:
        name = error.filename or "standard output or a temporary file"
        return f"{name}: {what[0].lower()}{what[1:]}; free some space, or write elsewhere"
    if error.filename is None and error.errno == errno.ENOENT and not _has_working_directory():
        return "the working directory does not exist any more; change to one that does"
    if error.filename is None and error.errno in _OF_THE_DISK:
        return f"a file cannot be read or written, as its disk or its network says: {what}"
    return None if error.filename is None else f"{error.filename}: {what}"


def _has_working_directory() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return False
    return True


def import_message(error: ImportError) -> str | None:
    """One line about another package that is missing or broken; None if the fault is in this one."""
    package = (error.name or "").partition(".")[0]
    if package in ("", "modellink_rm"):
        return None
    return (
        f"the package {package} cannot be imported ({error.msg}): python -m modellink_rm doctor says what is "
        "wrong with this installation, and the remedy"
    )


def limit_message(error: Exception) -> str | None:
    """One line on memory or open files that the system did not give, or None where it is something else."""
    if isinstance(error, MemoryError):
        return _NO_MEMORY
    text = str(error)
    found = next((message for sign, message in _LIMITS.items() if sign in text.lower()), None)
    return found and f"{found} ({text.splitlines()[0]})"


def drop_output() -> None:
    """Discard output that is still buffered: Python would fail to write it again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_error(message: str, *, is_agreed: bool = False) -> None:
    """Print one line from the first process of each node, while the others wait for it.

    Those that are still there afterwards met a mistake of their own, and tell it with their rank.

    Args:
        is_agreed: every process met it, and one line is enough.
    """
    message = printable(message)
    if _is_first_of_node():
        print(f"error: {message}", file=sys.stderr, flush=True)
    else:
        time.sleep(SECONDS_FOR_THE_MESSAGE if is_agreed else SECONDS_BEFORE_ITS_OWN_MESSAGE)
        if is_agreed:
            return
        print(f"error (rank {os.environ.get('RANK')}): {message}", file=sys.stderr, flush=True)


def _is_first_of_node() -> bool:
    return int(os.environ.get("LOCAL_RANK", "0")) == 0
