"""A function over a stream by several processes, the results in the stream's order."""

import collections
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Protocol, TypeVar

from modellink_rm.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result", covariant=True)

# Items given out before the first of them is done: enough that no worker waits for the writer.
_ITEMS_AHEAD_PER_WORKER = 4


class Work(Protocol[Result]):
    """What every process does with an item."""

    def __call__(self, item: Any, /) -> Result:
        """The result of an item."""


def ordered_map(
    make_work: Callable[..., Work[Result]], arguments: tuple[Any, ...], items: Iterable[Any], *, workers: int
) -> Iterator[Result]:
    """`make_work(*arguments)(item)` for every item, in order, by this process or by `workers` others.

    Each process makes its own work once. Items are read only as far ahead as the workers need.

    Args:
        make_work: importable by name, since processes are spawned, not forked.
        arguments: of make_work, picklable.
        items: picklable.
        workers: 1 for none but this process.

    Raises:
        UserError: a process died.
    """
    if workers == 1:
        yield from map(make_work(*arguments), items)
        return
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(workers, context, _start, (make_work, arguments))
    pending: collections.deque[Future[Result]] = collections.deque()
    try:
        for item in items:
            pending.append(executor.submit(_do, item))
            if len(pending) >= workers * _ITEMS_AHEAD_PER_WORKER:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool:
        raise UserError(
            f"one of the {workers} worker processes died, perhaps for want of memory: try fewer --workers"
        ) from None
    finally:
        executor.shutdown(cancel_futures=True)


_work: Work[Any] | None = None  # of a worker process


def _start(make_work: Callable[..., Work[Any]], arguments: tuple[Any, ...]) -> None:
    global _work
    # Ctrl-C reaches every process of a terminal; the one that writes ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    _work = make_work(*arguments)


def _exit_with_parent() -> None:
    """End this process when the one that started it is gone, were it killed; nothing else does."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _do(item: Any) -> Any:
    assert _work is not None
    return _work(item)
