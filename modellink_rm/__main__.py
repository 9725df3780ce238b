"""python -m modellink_rm COMMAND: every command, from any directory."""

import sys
from collections.abc import Sequence

from modellink_rm.base.errors import UserError, run_command
from modellink_rm.commands import doctor  # noqa: F401 (works where what another command imports is broken)
from modellink_rm.commands.registry import COMMANDS


def main() -> int:
    """Run the command that the first word names; its exit code."""
    return run_command(_run, sys.argv[1:])


def _run(words: Sequence[str]) -> int:
    if words and words[0] not in ("-h", "--help"):
        return int(COMMANDS[words[0]].main(words[1:]))
    print("usage: modellink-rm COMMAND [flag ...], or python -m modellink_rm COMMAND [flag ...]\n")
    for name in COMMANDS:
        print(f"  {name:12s}{_summary(name)}")
    print("\nmodellink-rm COMMAND --help lists the flags of a command.")
    return 0


def _summary(name: str) -> str:
    try:
        return COMMANDS[name].summary
    except UserError as error:  # an installed package is broken; the other commands still work
        return f"(cannot be used: {error})"


if __name__ == "__main__":
    sys.exit(main())
