"""python -m modellink_rm COMMAND: every command, from any directory."""

import importlib
import sys
from collections.abc import Sequence

from modellink_rm.base.errors import UserError, run_command
from modellink_rm.base.registry import unknown_name_message

COMMANDS = {
    "preprocess": ("modellink_rm.commands.preprocess", "write preference pairs as indexed binary files"),
    "inspect": ("modellink_rm.commands.inspect", "show what a preprocessed data set holds"),
    "train": ("modellink_rm.commands.train", "train a reward model (also under torchrun -m)"),
    "score": ("modellink_rm.commands.score", "score responses or pairs with a reward model"),
}


def main() -> int:
    """Run the command that the first word names; its exit code."""
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help"):
        print("usage: python -m modellink_rm COMMAND [--help]\n")
        for name, (_, summary) in COMMANDS.items():
            print(f"  {name:12s}{summary}")
        return 0

    def run(argv: Sequence[str]) -> int:
        if argv[0] not in COMMANDS:
            raise UserError(unknown_name_message("command", argv[0], COMMANDS))
        return int(importlib.import_module(COMMANDS[argv[0]][0]).main(argv[1:]))

    return run_command(run, words)


if __name__ == "__main__":
    sys.exit(main())
