"""A function applied to a stream by several processes, with results in order."""

import collections
import gc
import multiprocessing
import os
import pickle
import selectors
import signal
import socket
import traceback
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from modellink_rm.base.errors import UserError


class WorkerDiedError(UserError):
    """A worker process was killed; the results of the others are complete."""


Item = TypeVar("Item")
Result = TypeVar("Result")

# Items that a worker has at a time: one in work, and two waiting while the first process works on one itself.
_ITEMS_PER_WORKER = 3
# Items given out before the first of them is done.
_ITEMS_AHEAD_PER_PROCESS = 8
_BUFFER_BYTES = 1 << 20
_SIZE_BYTES = 8  # before every message
_ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class _Worker:
    """A worker, as seen by the first process.

    Attributes:
        end: the first process's end of the connection.
        num_items: items given to it and not finished.
    """

    def __init__(self, end: socket.socket) -> None:
        self.end = end
        self.num_items = 0
        self._unsent: collections.deque[memoryview] = collections.deque()

    def give(self, value: Any) -> None:
        """Give the worker an item, and send as much of it as the connection has room for."""
        self.num_items += 1
        self._unsent.extend(map(memoryview, _message(value)))
        self.send()

    def send(self) -> bool:
        """Send as much as there is room for; True if something is left.

        This process never waits for a worker to read, because the worker may be waiting for this process.
        """
        while self._unsent:
            try:
                sent = self.end.send(self._unsent[0], socket.MSG_DONTWAIT)
            except BlockingIOError:
                return True
            self._unsent[0] = self._unsent[0][sent:]
            if not self._unsent[0]:
                self._unsent.popleft()
        return False

    def events(self) -> int:
        """The events to wait for."""
        return selectors.EVENT_READ | (selectors.EVENT_WRITE if self._unsent else 0)


def ordered_map(work: Callable[[Item], Result], items: Iterable[Item], *, workers: int) -> Iterator[Result]:
    """Yield `work(item)` for every item, in order, computed by this process and `workers` - 1 others.

    The others are forked, so that the objects in `work`, such as a tokenizer, are loaded once and shared.
    Each item goes to a free process, and items are read only as far ahead as needed.

    Args:
        work: the function of an item.
        items: picklable, like the results.
        workers: number of processes, including this one.

    Raises:
        WorkerDiedError: a process died.
    """
    if workers == 1:
        yield from map(work, items)
        return
    processes: list[multiprocessing.process.BaseProcess] = []
    try:
        yield from _in_order(work, _start_workers(work, workers - 1, processes), iter(items))
    except (EOFError, ConnectionError):
        raise WorkerDiedError(
            "a process of --workers died, perhaps for lack of memory; --resume continues, also with fewer"
        ) from None
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.join()


def _start_workers(
    work: Callable[[Any], Any], workers: int, processes: list[multiprocessing.process.BaseProcess]
) -> list[_Worker]:
    """Start the workers, and append their processes to `processes`."""
    context = multiprocessing.get_context("fork")
    pipes = list(_socket_pairs(workers))
    # Interrupts are delayed until every worker is in the list, so that all can be ended.
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING_SIGNALS)
    try:
        for index in range(workers):
            process = context.Process(target=_serve, args=(work, pipes, index), daemon=True)
            process.start()
            processes.append(process)
    finally:
        for _, theirs in pipes:
            theirs.close()
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)
    return [_Worker(ours) for ours, _ in pipes]


def _socket_pairs(count: int) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Pairs of sockets with the largest buffers that the system allows."""
    for _ in range(count):
        pair = socket.socketpair()
        for end in pair:
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                end.setsockopt(socket.SOL_SOCKET, option, _BUFFER_BYTES)
        yield pair


def _message(value: Any) -> list[bytes]:
    """A value as bytes, prefixed with their number."""
    data = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    return [len(data).to_bytes(_SIZE_BYTES, "little"), data]


def _received(end: socket.socket) -> Any:
    """The next value, received without copies; multiprocessing's own connections copy it twice.

    Raises:
        EOFError: the other side has ended.
    """
    return pickle.loads(_bytes_of(end, int.from_bytes(_bytes_of(end, _SIZE_BYTES), "little")))


def _bytes_of(end: socket.socket, size: int) -> bytearray:
    data = bytearray(size)
    view = memoryview(data)
    while view:
        count = end.recv_into(view)
        if count == 0:
            raise EOFError
        view = view[count:]
    return data


def _in_order(work: Callable[[Any], Any], workers: list[_Worker], items: Iterator[Any]) -> Iterator[Any]:
    """Distribute the items and yield the results in order; if no result is ready, work on an item here."""
    num_yielded = 0
    done: dict[int, Any] = {}
    numbered = enumerate(items)
    following = next(numbered, None)
    while True:
        limit = num_yielded + _ITEMS_AHEAD_PER_PROCESS * (len(workers) + 1)
        for worker in sorted(workers, key=lambda worker: worker.num_items) * _ITEMS_PER_WORKER:
            if following and following[0] < limit and worker.num_items < _ITEMS_PER_WORKER:
                worker.give(following)
                following = next(numbered, None)
        busy = [worker for worker in workers if worker.num_items]
        if not busy and not following:
            return
        own = following if following and following[0] < limit else None
        ready = _readable(busy, waits=own is None)
        for worker in ready:
            index, result, error = _received(worker.end)
            if error is not None:
                raise error
            worker.num_items -= 1
            done[index] = result
        if own and not ready:
            done[own[0]] = work(own[1])
            following = next(numbered, None)
        while num_yielded in done:
            yield done.pop(num_yielded)
            num_yielded += 1


def _readable(workers: list[_Worker], *, waits: bool) -> list[_Worker]:
    """The workers that sent a result or have ended; sends pending items to all of them meanwhile.

    Args:
        workers: all workers with items.
        waits: wait until there is one.
    """
    found: list[_Worker] = []
    with selectors.PollSelector() as selector:
        for worker in workers:
            selector.register(worker.end, worker.events(), worker)
        while True:
            for key, events in selector.select(None if waits else 0):
                worker = key.data
                if events & selectors.EVENT_WRITE and not worker.send():
                    selector.modify(worker.end, worker.events(), worker)
                if events & selectors.EVENT_READ:
                    found.append(worker)
            if found or not waits:
                return found


def _serve(work: Callable[[Any], Any], pipes: list[tuple[socket.socket, socket.socket]], index: int) -> None:
    """Process items until the first process ends this one, or has ended itself.

    There is no thread that reads ahead: with a second thread every malloc and free costs more.
    """
    # Ctrl-C reaches every process of a terminal; the first process ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING_SIGNALS)
    connection = pipes[index][1]
    # If the other ends were also open here, this process would not notice that the first one has ended.
    for ours, theirs in pipes:
        ours.close()
        if theirs is not connection:
            theirs.close()
    gc.freeze()  # the garbage collector would write to memory that is shared with the first process
    try:
        while True:
            number, item = _received(connection)
            try:
                answer: tuple[int, Any, Exception | None] = (number, work(item), None)
            except Exception as error:
                answer = (number, None, _as_sent(error))
            for part in _message(answer):
                connection.sendall(part)
    except (EOFError, OSError):
        os._exit(1)


def _as_sent(error: Exception) -> Exception:
    """The error as the first process can raise it, with a note that says where it was raised."""
    place = "".join(traceback.format_exception(error))
    try:
        sent: Exception = pickle.loads(pickle.dumps(error))
    except Exception:  # of a class that cannot be pickled, as a handler of the user may raise
        sent = RuntimeError(f"{type(error).__name__}: {error}")
    sent.add_note(f"In a process of --workers:\n{place}")
    return sent
