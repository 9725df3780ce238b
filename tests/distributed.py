"""Run a plain function of ranks in several gloo processes.

The processes start once and serve every test of a session: importing torch and megatron-core takes
longer than most of what is tested.
"""

import gc
import os
import random
import socket
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any

import psutil
import torch.multiprocessing

from modellink_rm.base import engine_import  # noqa: F401 (each process starts sooner)

# Two calls fit into the time-out of a test (pyproject.toml), which names neither rank nor traceback.
SECONDS = 140.0
SECONDS_AFTER_A_FAILURE = 5.0
SECONDS_TO_END = 5.0
MANY_THREADS = 40


class Workers:
    """Processes that call functions by ranks; `close` ends them."""

    def __init__(self) -> None:
        self._context = torch.multiprocessing.get_context("spawn")
        self._processes: list[Any] = []
        self._pipes: list[Connection] = []

    def run(self, function: Callable[..., Any], world_size: int, *arguments: Any) -> list[Any]:
        """What `function(*arguments)` returned on each rank, with torchrun's environment set."""
        self._start(world_size)
        port = free_port()
        for rank in range(world_size):
            self._pipes[rank].send((function, arguments, _environment(rank, world_size, port)))
        try:
            results = self._receive(world_size)
        except BaseException:  # the test's own time-out: later tests must not read this one's answers
            self.close()
            raise
        failures = [f"rank {rank}:\n{text}" for rank, (ok, text) in enumerate(results) if not ok]
        assert not failures, "\n".join(failures)
        return [value for _, value in results]

    def _receive(self, world_size: int) -> list[tuple[bool, Any]]:
        """Every rank's answer; once a rank fails, the others, which may wait for it, get little time."""
        results: dict[int, tuple[bool, Any]] = {}
        deadline = time.monotonic() + SECONDS
        while len(results) < world_size and time.monotonic() < deadline:
            waiting: dict[Any, int] = {
                self._pipes[rank]: rank for rank in range(world_size) if rank not in results
            }
            for pipe in wait(list(waiting), timeout=1.0):
                rank = waiting[pipe]
                try:
                    results[rank] = self._pipes[rank].recv()
                except EOFError:
                    results[rank] = (False, "the process died")
                if not results[rank][0]:
                    deadline = min(deadline, time.monotonic() + SECONDS_AFTER_A_FAILURE)
        if len(results) < world_size:
            self.close()
        return [results.get(rank, (False, "no answer")) for rank in range(world_size)]

    def _start(self, count: int) -> None:
        while len(self._processes) < count:
            ours, theirs = self._context.Pipe()
            process = self._context.Process(target=_serve, args=(theirs,), daemon=False)
            process.start()
            self._processes.append(process)
            self._pipes.append(ours)

    def close(self) -> None:
        for pipe in self._pipes:
            pipe.close()
        deadline = time.monotonic() + SECONDS_TO_END
        for process in self._processes:
            process.join(timeout=max(0.0, deadline - time.monotonic()))
            process.kill()
        self._processes, self._pipes = [], []


def free_port() -> int:
    """A port below those that the system gives out by itself: nothing takes it before the first rank does."""
    while True:
        port = random.SystemRandom().randrange(10000, 32000)
        with socket.socket() as free:
            try:
                free.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def _environment(rank: int, world_size: int, port: int) -> dict[str, str]:
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def _serve(pipe: Connection) -> None:
    torch.set_num_threads(1)
    while True:
        try:
            function, arguments, environment = pipe.recv()
        except EOFError:
            return
        os.environ.update(environment)
        try:
            pipe.send((True, function(*arguments)))
        except BaseException:
            pipe.send((False, traceback.format_exc()))
        _end_groups()


def _end_groups() -> None:
    """Collect the models of a call, which are cycles and hold process groups with three threads each.

    By itself the collector does so too seldom: hundreds of threads were left. What stays is not looked at
    again until many threads are: some of it is let go by a later call.
    """
    gc.collect()
    if psutil.Process().num_threads() > MANY_THREADS:
        gc.unfreeze()
        gc.collect()
    gc.freeze()
