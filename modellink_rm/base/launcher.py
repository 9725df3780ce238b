"""The process with which this one ends: torchrun, or a command that left a part of its work to another."""

import os
import sys
import threading
import time
from typing import NoReturn

_TORCHRUN = "TORCHELASTIC_RUN_ID"
_COMMAND = "MODELLINK_RM_LAUNCHER"
_THREAD = "modellink-rm launcher"
_SECONDS_BETWEEN_LOOKS = 0.5


def environment_of_child() -> dict[str, str]:
    """The environment of a command that this process starts, and that is to end when this one is killed."""
    return {**os.environ, _COMMAND: str(os.getpid())}


def launcher() -> int | None:
    """The process id of the launcher, which may be gone already; None where a user started this process."""
    command = os.environ.get(_COMMAND, "")
    if command.isdecimal():
        return int(command)
    return os.getppid() if _TORCHRUN in os.environ else None


def end_with_launcher() -> None:
    """End this process soon after the torchrun or the command that started it is gone; else nothing happens.

    A launcher that is killed cannot end its processes, which would go on and keep the devices. Called before
    torch is imported, which takes seconds.
    """
    found = launcher()
    if found is None or _THREAD in {thread.name for thread in threading.enumerate()}:
        return
    threading.Thread(target=_watch, args=(found,), name=_THREAD, daemon=True).start()


def end_at_once(message: str, code: int) -> NoReturn:
    """Tell an error with this process's rank, and end it without waiting for anything."""
    print(f"error (rank {os.environ.get('RANK', '0')}): {message}", file=sys.stderr, flush=True)
    os._exit(code)  # anything gentler may wait for the other processes


def _watch(process: int) -> None:
    while os.getppid() == process:
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    end_at_once("the launcher has ended, and this process with it", 1)
