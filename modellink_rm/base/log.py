"""Messages to the user, from the first process only; each warning is printed once."""

import functools
import logging
import os
import sys
import warnings

from modellink_rm.base.terminal import without_commands

logger = logging.getLogger("modellink_rm")


def set_up_logging() -> None:
    """Send this package's messages to stderr; every process but the first is silent."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter("%(message)s"))
    logger.handlers = [handler]
    logger.propagate = False
    logger.setLevel(logging.INFO if is_first_process() else logging.ERROR)
    _quiet_the_engine()


class _Formatter(logging.Formatter):
    """A message may quote names and texts of data that others made."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, which gives a terminal no commands."""
        return without_commands(super().format(record))


def _quiet_the_engine() -> None:
    """Hide warnings of megatron-core and torch that appear at every start and that no user can act on."""
    for module in (r"megatron\.", r"torch\.distributed\."):
        warnings.filterwarnings("ignore", module=module)
    # Our own line names the checkpoint and the reason; without a handler theirs go to stderr.
    for module in ("megatron.core.dist_checkpointing.strategies.filesystem_async",):
        logging.getLogger(module).setLevel(logging.CRITICAL)
    # These two name the caller's module: checkpoints' tensors, the distributed optimizer's views.
    warnings.filterwarnings("ignore", message="Please use DTensor instead")
    warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor that is not a leaf")


def is_first_process() -> bool:
    """True in a single process and in rank 0 of a torchrun."""
    return int(os.environ.get("RANK", "0")) == 0


def info(message: str) -> None:
    """Print one line, from the first process only."""
    logger.info(message)


@functools.cache
def warn_once(message: str) -> None:
    """Print a warning line, once per process and message, from the first process only."""
    logger.warning("warning: %s", message)
