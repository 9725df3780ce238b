"""A function over a stream by several processes, the results in the stream's order."""

import contextlib
import multiprocessing
import os
import pickle
import queue
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import wait
from typing import Any, TypeVar

from modellink_rm.errors import UserError


class WorkerDiedError(UserError):
    """A process that was killed; what the others did is whole."""


Item = TypeVar("Item")
Result = TypeVar("Result")

# Items that a worker has at a time: one it does, one that lies ready when it is done.
_ITEMS_PER_WORKER = 2
# Items given out before the first of them is done.
_ITEMS_AHEAD_PER_WORKER = 8
_BUFFER_BYTES = 1 << 20
_SIZE_BYTES = 8  # before every message
# Seconds after which a worker's thread that takes items gets its turn (5 ms by default, for every read).
_SWITCH_SECONDS = 2e-4
_ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def ordered_map(work: Callable[[Item], Result], items: Iterable[Item], *, workers: int) -> Iterator[Result]:
    """`work(item)` for every item, in order, by this process or by `workers` others.

    The processes are forked: what `work` holds, such as a tokenizer, is loaded once and shared. Items
    go to whichever process is free, and are read only as far ahead as the workers need.

    Args:
        work: what to do with an item.
        items: picklable, as the results must be.
        workers: 1 for none but this process.

    Raises:
        WorkerDiedError: a process died.
    """
    if workers == 1:
        yield from map(work, items)
        return
    processes: list[multiprocessing.process.BaseProcess] = []
    try:
        connections = _start_workers(work, workers, processes)
        yield from _in_order(connections, iter(items))
    except (EOFError, ConnectionError):
        raise WorkerDiedError(
            f"one of the {workers} worker processes died, perhaps for want of memory: try fewer --workers"
        ) from None
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.join()


def _start_workers(
    work: Callable[[Any], Any], workers: int, processes: list[multiprocessing.process.BaseProcess]
) -> list[socket.socket]:
    """This process's ends of the connections to the workers, which are put into `processes`."""
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
    return [ours for ours, _ in pipes]


def _socket_pairs(count: int) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Pairs of sockets in which as much as the system allows can wait."""
    for _ in range(count):
        pair = socket.socketpair()
        for end in pair:
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                end.setsockopt(socket.SOL_SOCKET, option, _BUFFER_BYTES)
        yield pair


def _send(end: socket.socket, value: Any) -> None:
    """Send a value; returns when the other side can take all of it."""
    data = memoryview(pickle.dumps(value, pickle.HIGHEST_PROTOCOL))
    size = len(data).to_bytes(_SIZE_BYTES, "little")
    sent = end.sendmsg([size, data])
    assert sent >= _SIZE_BYTES, "a socket takes a few bytes at once"
    end.sendall(data[sent - _SIZE_BYTES :])


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


def _in_order(connections: list[socket.socket], items: Iterator[Any]) -> Iterator[Any]:
    """Give out the items and take the results back, each in its turn."""
    num_given = num_yielded = 0
    busy = dict.fromkeys(connections, 0)
    done: dict[int, Any] = {}
    is_more = True
    while True:
        for connection in sorted(busy, key=busy.__getitem__) * _ITEMS_PER_WORKER:
            is_ahead = num_given - num_yielded >= _ITEMS_AHEAD_PER_WORKER * len(connections)
            if not is_more or is_ahead or busy[connection] == _ITEMS_PER_WORKER:
                continue
            try:
                item = next(items)
            except StopIteration:
                is_more = False
                break
            _send(connection, (num_given, item))
            busy[connection] += 1
            num_given += 1
        waiting = [connection for connection, count in busy.items() if count]
        if not waiting:
            return
        for ready in wait(waiting):
            assert isinstance(ready, socket.socket)
            index, result, error = _received(ready)
            if error is not None:
                raise error
            busy[ready] -= 1
            done[index] = result
        while num_yielded in done:
            yield done.pop(num_yielded)
            num_yielded += 1


def _serve(work: Callable[[Any], Any], pipes: list[tuple[socket.socket, socket.socket]], index: int) -> None:
    """Do the items that come, until this process is ended."""
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
    sys.setswitchinterval(_SWITCH_SECONDS)
    items: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(connection, items), daemon=True).start()
    while True:
        number, item = items.get()
        try:
            answer: tuple[int, Any, Exception | None] = (number, work(item), None)
        except Exception as error:
            answer = (number, None, error)
        _send(connection, answer)


def _receive(connection: socket.socket, items: "queue.SimpleQueue[tuple[int, Any]]") -> None:
    """Take items as they come, so that neither side waits for the other while both send.

    Ends this process when the first one is gone, were it killed: nothing else does.
    """
    with contextlib.suppress(EOFError, OSError):
        while True:
            items.put(_received(connection))
    os._exit(1)
