"""The process that started this one and with which it ends: torchrun, or a command that shares its work."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Mapping
from typing import NoReturn

_TORCHRUN = "TORCHELASTIC_RUN_ID"
_COMMAND = "MODELLINK_RM_LAUNCHER"
_THREAD = "modellink-rm launcher"
_SECONDS_BETWEEN_LOOKS = 0.5


def environment_of_child() -> dict[str, str]:
    """The environment of a command that this process starts, and that is to end when this one is killed."""
    return {**os.environ, _COMMAND: str(os.getpid())}


def module_as_child(name: str) -> tuple[list[str], dict[str, str]]:
    """The words and the environment of a process that runs a module, to end when this one is killed.

    It finds modules where this process does: by itself `python -m` looks in the working directory first, and
    runs whatever is there.
    """
    path = os.pathsep.join(os.path.abspath(place) for place in sys.path)
    return [sys.executable, "-P", "-m", name], {**environment_of_child(), "PYTHONPATH": path}


def launcher() -> int | None:
    """The process id of the launcher, which may be gone already; None where a user started this process."""
    command = os.environ.get(_COMMAND, "")
    if command.isdecimal():
        return int(command)
    return os.getppid() if _TORCHRUN in os.environ else None


def problem_of_ranks(environment: Mapping[str, str]) -> str | None:
    """What is wrong with the variables that torchrun sets, in one line; None where nothing is.

    A process that took itself for one of several would do a part of the work, or print nothing.
    """
    found = {name: environment[name] for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE") if name in environment}
    if not found:
        return None
    shown = " ".join(f"{name}={value}" for name, value in found.items())
    remedy = "torchrun sets them; unset them to start a single process"
    if not all(value.isascii() and value.isdigit() for value in found.values()):
        return f"the environment has {shown}, which are to be whole numbers: {remedy}"
    size, rank = int(found.get("WORLD_SIZE", "1")), found.get("RANK")
    if int(rank or "0") >= size or (rank is None and size > 1):
        return f"the environment has {shown}, which is no process of a whole: {remedy}"
    return None


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
    with contextlib.suppress(OSError):  # who read it may be gone too
        print(f"error (rank {os.environ.get('RANK', '0')}): {message}", file=sys.stderr, flush=True)
    os._exit(code)  # anything gentler may wait for the other processes


def _watch(process: int) -> None:
    while os.getppid() == process:
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    end_at_once("the launcher has ended, and this process with it", 1)
