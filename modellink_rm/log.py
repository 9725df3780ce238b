"""Messages to the user: from the first process alone, warnings once each."""

import functools
import logging
import os
import sys

logger = logging.getLogger("modellink_rm")


def set_up_logging() -> None:
    """Send messages of this package to stderr; every process but the first keeps quiet."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.handlers = [handler]
    logger.propagate = False
    logger.setLevel(logging.INFO if is_first_process() else logging.ERROR)


def is_first_process() -> bool:
    """True in a single process and in rank 0 of a torchrun."""
    return int(os.environ.get("RANK", "0")) == 0


def info(message: str) -> None:
    """Print one line, from the first process only."""
    logger.info(message)


@functools.cache
def warn_once(message: str) -> None:
    """Print one warning line the first time it is given, from the first process only."""
    logger.warning("warning: %s", message)
