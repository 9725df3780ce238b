"""A process that fails or disappears takes the others of its run with it, and the first error is told."""

import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from modellink_rm.base.errors import SECONDS_FOR_THE_MESSAGE, AgreedError, UserError, file_error_message

_SECONDS_BETWEEN_LOOKS = 0.5
# What gloo, nccl and torch's store say where another process is gone (torch 2.9 to 2.13).
_SIGNS_OF_A_LOST_PROCESS = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Connection refused",
    "Broken pipe",
    "Timed out waiting",
    "recv failed",
    "remote process",
    "NCCL communicator was aborted",
)


@contextmanager
def ending_together() -> Iterator[None]:
    """End this process when the work within fails here alone, since the others wait for it in an exchange.

    The process that fails first says why, with its rank, and ends with code 2 for a user's mistake and 1 for
    another error; the others lose their connections to it, or the launcher ends them. An `AgreedError`, which
    every process raises, goes through, as does every error of a single process and Ctrl-C.
    """
    try:
        yield
    except (AgreedError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            raise
        sys.stdout.flush()
        if _is_lost_process(error):
            # The launcher says which process it was, and ends this one, before the time is up.
            time.sleep(SECONDS_FOR_THE_MESSAGE)
            _end("another process of this run has ended; its own message, or its launcher's, says why", 1)
        message = file_error_message(error) if isinstance(error, OSError) else None
        message = str(error) if isinstance(error, UserError) else message
        if message is not None:
            _end(message, 2)
        traceback.print_exc()
        _end(f"{type(error).__name__}: {' '.join(str(error).split())}", 1)


def _is_lost_process(error: BaseException) -> bool:
    """Whether an exchange failed because another process is gone."""
    if isinstance(error, torch.distributed.DistNetworkError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS_OF_A_LOST_PROCESS)


def _end(message: str, code: int) -> None:
    print(f"error (rank {os.environ.get('RANK', '0')}): {message}", file=sys.stderr, flush=True)
    os._exit(code)  # anything gentler may wait for the other processes


def end_with_launcher() -> None:
    """End this process soon after the torchrun that started it is gone; without one nothing happens.

    A torchrun that is killed cannot end its processes, which would go on and keep the devices.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ or "modellink-rm launcher" in _thread_names():
        return
    threading.Thread(target=_watch, args=(os.getppid(),), name="modellink-rm launcher", daemon=True).start()


def _thread_names() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


def _watch(launcher: int) -> None:
    while os.getppid() == launcher:
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    _end("torchrun has ended, and this process with it", 1)
