"""What a user did that cannot work, and how a command reports it."""

import os
import sys
import time
from collections.abc import Callable, Sequence

# How long the other processes of a torchrun wait for the one that prints before they exit too:
# torchrun ends every process as soon as the first one fails.
SECONDS_FOR_THE_MESSAGE = 3.0


class UserError(ValueError):
    """A mistake of the user's: one line that states the rule, what was got, and what to do."""


def run_command(main: Callable[[Sequence[str]], int], argv: Sequence[str]) -> int:
    """Exit code of `main(argv)`: its own, 2 with one line on stderr for a user's mistake, 130 for Ctrl-C.

    Under torchrun only the first process of each node prints; the others give it time to.
    """
    try:
        return main(argv)
    except UserError as error:
        print_error(str(error))
        return 2
    except KeyboardInterrupt:
        print_error("interrupted")
        return 130
    except BrokenPipeError:  # who reads the output has seen enough, as in `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def print_error(message: str) -> None:
    """Print one line from the first process of each node, while the others wait for it."""
    if int(os.environ.get("LOCAL_RANK", "0")) == 0:
        print(f"error: {message}", file=sys.stderr, flush=True)
    else:
        time.sleep(SECONDS_FOR_THE_MESSAGE)
