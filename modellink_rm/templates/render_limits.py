"""Bounds of time and memory around the rendering of a chat template, which is somebody else's program.

transformers renders it in jinja2's ImmutableSandboxedEnvironment: no files, no attributes that begin with an
underscore, ranges of 100,000 numbers at most. What is left is a loop inside a loop, and a text that doubles.
"""

import contextlib
import resource
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

MAX_SECONDS = 10.0  # of processor time, so that a busy machine changes nothing
_MAX_BYTES = 1 << 30  # of memory beside what the process has
_STATM = Path("/proc/self/statm")  # its first number: pages of the address space


class RenderingTooLongError(Exception):
    """The template has not come to an end in time."""


@contextlib.contextmanager
def rendering_limits() -> Iterator[None]:
    """A block that may take `MAX_SECONDS` (in the main thread) and 1 GiB of memory (on Linux).

    Raises:
        RenderingTooLongError: the time is over.
        MemoryError: the memory is used up.
    """
    with _time_limit(), _memory_limit():
        yield


@contextlib.contextmanager
def _time_limit() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread can be interrupted by a signal
        return
    before = signal.signal(signal.SIGVTALRM, _stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, MAX_SECONDS)
    try:
        yield
    finally:
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
