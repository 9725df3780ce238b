"""Names that a user picks: handlers, templates, losses, model families."""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

from modellink_rm.base.errors import UserError

T = TypeVar("T")


def unknown_name_message(kind: str, name: str, choices: Iterable[str]) -> str:
    """One line: the name is unknown, the nearest one if any, and every choice."""
    choices = sorted(choices)
    near = difflib.get_close_matches(name, choices, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"unknown {kind} {name!r}{hint} (choices: {', '.join(choices)})"


class Registry(Mapping[str, T]):
    """A mapping from names to objects whose unknown name is an error that lists the choices.

    Args:
        kind: what the names are, as the error calls them ("--prompt-type").
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def add(self, entry: T, *names: str) -> T:
        """Return `entry`, now known by each of `names`."""
        for name in names:
            assert name not in self._entries, f"{self.kind} {name} is registered twice"
            self._entries[name] = entry
        return entry

    def __getitem__(self, name: str) -> T:
        """The entry of that name.

        Raises:
            UserError: the name is unknown.
        """
        if name not in self._entries:
            raise UserError(unknown_name_message(self.kind, name, self._entries))
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
