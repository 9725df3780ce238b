"""Work of each process by a thread, and what all processes make of it together."""

import threading
from collections.abc import Callable
from typing import Any

import torch


class Work:
    """A function that is called by this thread or another one, and what became of it."""

    def __init__(self, function: Callable[[], Any] | None = None) -> None:
        self.result: Any = None
        self.error: Exception | None = None
        self._function = function
        self._thread: threading.Thread | None = None

    def run(self) -> None:
        """Call the function, and keep what it returns or raises."""
        if self._function is None:
            return
        try:
            self.result = self._function()
        except Exception as error:
            self.error = error

    def start(self) -> None:
        """Let another thread call the function."""
        # A daemon: a process that is to end does not wait for it.
        self._thread = threading.Thread(target=self.run, daemon=True)
        self._thread.start()

    @property
    def is_running(self) -> bool:
        """Whether another thread is still at it."""
        return self._thread is not None and self._thread.is_alive()

    def wait(self) -> None:
        """Wait until it is done."""
        if self._thread is not None:
            self._thread.join()


class Together:
    """All processes, for numbers and objects in the host's memory, beside the exchanges of the training."""

    def __init__(self) -> None:
        self._size = torch.distributed.get_world_size()
        self._group = torch.distributed.new_group(backend="gloo") if self._size > 1 else None
        self._vote: tuple[torch.Tensor, Any] | None = None

    def are_ready(self, work: Work) -> bool:
        """Whether the work of all processes was done at the last call; of a single process, whether it is.

        No process waits for another one: each call starts a sum, whose result the next one reads. A
        collective.
        """
        if self._group is None:
            return not work.is_running
        are_ready = self._outcome()
        if not are_ready:
            num_running = torch.tensor([int(work.is_running)], dtype=torch.int32)
            exchange = torch.distributed.all_reduce(num_running, group=self._group, async_op=True)
            self._vote = num_running, exchange
        return are_ready

    def forget(self) -> None:
        """End what a call of `are_ready` started; a collective."""
        self._outcome()

    def _outcome(self) -> bool:
        if self._vote is None:
            return False
        num_running, exchange = self._vote
        self._vote = None
        exchange.wait()
        return int(num_running) == 0

    def first_of(self, value: Any) -> Any:
        """The first value that is not None, in the order of the processes; a collective."""
        values = [value] * self._size
        if self._group is not None:
            torch.distributed.all_gather_object(values, value, group=self._group)
        return next((one for one in values if one is not None), None)

    def gathered(self, value: Any) -> list[Any]:
        """The value of each process, on the first one; elsewhere nothing. A collective."""
        if self._group is None:
            return [value]
        values = [None] * self._size if torch.distributed.get_rank() == 0 else None
        torch.distributed.gather_object(value, values, group=self._group)
        return values or []
