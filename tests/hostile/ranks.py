"""A command as the processes of a torchrun, forked from one that takes torchrun's place."""

import os
import signal
import time
from collections.abc import Callable

from tests.distributed import free_port

SECONDS_TO_END = 10.0


def run_ranks(num_processes: int, call: Callable[[], int]) -> int:
    """Call the function in that many forked processes; what the first that fails returns, 1 if it was killed.

    As torchrun, the first that fails makes this process end the others.
    """
    port = free_port()
    processes = [_forked(rank, num_processes, port, call) for rank in range(num_processes)]
    deadline = None
    code = 0
    while processes:
        process, status = os.waitpid(-1, os.WNOHANG if deadline is not None else 0)
        if process:
            processes.remove(process)
        if process and status and not code:
            code = max(os.waitstatus_to_exitcode(status), 0) or 1
        if code and deadline is None:
            deadline = time.monotonic() + SECONDS_TO_END
            _send(signal.SIGTERM, processes)
        elif deadline is not None and time.monotonic() > deadline:
            _send(signal.SIGKILL, processes)
        if not process:
            time.sleep(0.02)
    return code


def _send(number: signal.Signals, processes: list[int]) -> None:
    for process in processes:
        os.kill(process, number)


def _forked(rank: int, num_processes: int, port: int, call: Callable[[], int]) -> int:
    """The process id of the rank."""
    process = os.fork()
    if process:
        return process
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(num_processes),
        LOCAL_WORLD_SIZE=str(num_processes),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        TORCHELASTIC_RUN_ID="hostile",
    )
    os._exit(call())
