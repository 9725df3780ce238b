"""The commands of `python -m modellink_rm`; each file of this package registers its own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from modellink_rm.base.registry import Registry


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command; an installed package can offer any object or module with these two attributes.

    Attributes:
        summary: one line for the list of commands.
        main: runs the command with the words after its name, and returns the exit code.
    """

    summary: str
    main: Callable[[Sequence[str]], int]


COMMANDS: Registry[Command] = Registry(
    "command",
    package="modellink_rm.commands",
    entry_points="modellink_rm.commands",
    accepts=lambda entry: hasattr(entry, "main") and hasattr(entry, "summary"),
    expected="an object with main and summary",
)
