"""If one process of a run fails or disappears, the others end too, and the first error is reported."""

import os
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from modellink_rm.base.errors import SECONDS_FOR_THE_MESSAGE, AgreedError, UserError, file_error_message
from modellink_rm.base.launcher import end_at_once

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
            end_at_once(
                "another process of this run has ended; its own message, or its launcher's, says why", 1
            )
        message = file_error_message(error) if isinstance(error, OSError) else None
        message = str(error) if isinstance(error, UserError) else message
        if message is not None:
            end_at_once(message, 2)
        traceback.print_exc()
        end_at_once(f"{type(error).__name__}: {' '.join(str(error).split())}", 1)


def _is_lost_process(error: BaseException) -> bool:
    """Whether an exchange failed because another process is gone."""
    if isinstance(error, torch.distributed.DistNetworkError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS_OF_A_LOST_PROCESS)
