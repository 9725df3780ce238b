"""Limits of time and memory for rendering a chat template, which is a foreign program.

transformers renders it in jinja2's ImmutableSandboxedEnvironment: no files, no attributes that begin with an
underscore, ranges of 100,000 numbers at most. Nested loops and texts that grow exponentially remain.
"""

import contextlib
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

MAX_SECONDS = 10.0  # of processor time, so that the load of the machine does not matter
# After these the system ends the process: Python calls no handler while one operation of C goes on.
_SECONDS_OF_GRACE = 20.0
_MAX_BYTES = 1 << 30  # of memory, in addition to what the process uses
_STATM = Path("/proc/self/statm")  # its first number: size of the address space in pages


class RenderingTooLongError(BaseException):
    """The template did not finish in time.

    No Exception: jinja2 catches those while it computes a template's constants, and would go on unlimited.
    """


@contextlib.contextmanager
def rendering_limits(seconds: float) -> Iterator[None]:
    """A block of the main thread limited to `seconds` of processor time and 1 GiB of memory (on Linux).

    No other thread may be running, for which these limits would hold too.

    A single operation that goes on, as the comparison of lists that share their parts can, cannot be
    interrupted: the system ends the process with SIGPROF some seconds later.

    Raises:
        RenderingTooLongError: the block took longer.
        MemoryError: the block needed more memory.
    """
    with _time_limit(seconds), _memory_limit():
        yield


@contextlib.contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    before = signal.signal(signal.SIGVTALRM, _stop)
    # Again and again: python drops what is raised within a destructor.
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds, seconds)
    signal.setitimer(signal.ITIMER_PROF, seconds + _SECONDS_OF_GRACE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def _stop(number: int, frame: FrameType | None) -> None:
    raise RenderingTooLongError


@contextlib.contextmanager
def _memory_limit() -> Iterator[None]:
    if not _STATM.exists():
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = int(_STATM.read_text().split()[0]) * resource.getpagesize() + _MAX_BYTES
    limits = [limit, *(other for other in (soft, hard) if other != resource.RLIM_INFINITY)]
    resource.setrlimit(resource.RLIMIT_AS, (min(limits), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
