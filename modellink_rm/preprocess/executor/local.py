"""A function over a stream by several processes, the results in the stream's order."""

import collections
import gc
import multiprocessing
import os
import pickle
import selectors
import signal
import socket
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from modellink_rm.base.errors import UserError


class WorkerDiedError(UserError):
    """A process that was killed; what the others did is whole."""


Item = TypeVar("Item")
Result = TypeVar("Result")

# Items that a worker has at a time: one it does, two that lie ready while the first process does one itself.
_ITEMS_PER_WORKER = 3
# Items given out before the first of them is done.
_ITEMS_AHEAD_PER_PROCESS = 8
_BUFFER_BYTES = 1 << 20
_SIZE_BYTES = 8  # before every message
_ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class _Worker:
    """A worker as the first process sees it.

    Attributes:
        end: this process's, of the connection.
        num_items: given to it and not done.
    """

    def __init__(self, end: socket.socket) -> None:
        self.end = end
        self.num_items = 0
        self._unsent: collections.deque[memoryview] = collections.deque()

    def give(self, value: Any) -> None:
        """Hand over an item, as much of it as the connection has room for."""
        self.num_items += 1
        self._unsent.extend(map(memoryview, _message(value)))
        self.send()

    def send(self) -> bool:
        """Send what there is room for; True where something is left.

        This process never waits for a worker to read: that one may be waiting for it to do so.
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
        """What to wait for."""
        return selectors.EVENT_READ | (selectors.EVENT_WRITE if self._unsent else 0)


def ordered_map(work: Callable[[Item], Result], items: Iterable[Item], *, workers: int) -> Iterator[Result]:
    """`work(item)` for every item, in order, by this process and `workers` - 1 others.

    The others are forked: what `work` holds, such as a tokenizer, is loaded once and shared. Items go
    to whichever process is free, and are read only as far ahead as they are needed.

    Args:
        work: what to do with an item.
        items: picklable, as the results must be.
        workers: how many processes, this one among them.

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
            "a process of --workers died, perhaps for want of memory; --resume continues, also with fewer"
        ) from None
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.join()


def _start_workers(
    work: Callable[[Any], Any], workers: int, processes: list[multiprocessing.process.BaseProcess]
) -> list[_Worker]:
    """The workers, whose processes are put into `processes`."""
    context = multiprocessing.get_context("fork")
    pipes = list(_socket_pairs(workers))
    # An interruption waits until every worker is in the list from which it is ended.
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
    """Pairs of sockets in which as much as the system allows can wait."""
    for _ in range(count):
        pair = socket.socketpair()
        for end in pair:
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                end.setsockopt(socket.SOL_SOCKET, option, _BUFFER_BYTES)
        yield pair


def _message(value: Any) -> list[bytes]:
    """A value as bytes, before them their number."""
    data = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    return [len(data).to_bytes(_SIZE_BYTES, "little"), data]


def _received(end: socket.socket) -> Any:
    """The next value, read into place: multiprocessing's own connections copy it twice more.

    Raises:
        EOFError: the other side is gone.
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
    """Give out the items and take the results back, each in its turn; with none to take, do one here."""
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
    """Those that send a result or are gone; meanwhile items go on to all of them.

    Args:
        workers: all that have items.
        waits: until there is one.
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
    """Do the items that come, until the first process ends this one, or is gone.

    No thread takes items ahead: in a process with a second one, every malloc and free costs more.
    """
    # Ctrl-C reaches every process of a terminal; the one that writes ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING_SIGNALS)
    connection = pipes[index][1]
    # The other ends, were they open here too, would hide that the first process is gone.
    for ours, theirs in pipes:
        ours.close()
        if theirs is not connection:
            theirs.close()
    gc.freeze()  # memory of the first process is shared as long as nothing, the collector too, writes to it
    try:
        while True:
            number, item = _received(connection)
            try:
                answer: tuple[int, Any, Exception | None] = (number, work(item), None)
            except Exception as error:
                answer = (number, None, error)
            for part in _message(answer):
                connection.sendall(part)
    except (EOFError, OSError):
        os._exit(1)
