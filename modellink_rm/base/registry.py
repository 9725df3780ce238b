"""Names that a user picks: handlers, templates, losses, model families, commands."""

import difflib
import importlib
import pkgutil
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import TypeVar

from modellink_rm.base.errors import UserError

T = TypeVar("T")


def unknown_name_message(kind: str, name: str, choices: Iterable[str], *, suggests: bool = True) -> str:
    """One line: the name is unknown, the nearest one if any, and every choice.

    Args:
        suggests: False where a name is not typed by the user, so that a similar one is not what was meant.
    """
    choices = sorted(choices)
    near = difflib.get_close_matches(name, choices, n=1) if suggests else []
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"unknown {kind} {name!r}{hint} (choices: {', '.join(choices)})"


class Registry(Mapping[str, T]):
    """A mapping from names to objects whose unknown name is an error that lists the choices.

    The modules of `package` add their entries themselves when they are imported, which happens at the first
    look into the registry: a file in that package is all that an addition takes.

    Args:
        kind: what the names are, as the error calls them ("--prompt-type").
        package: dotted name of the package whose modules add entries; "" where entries are added directly.
        entry_points: group under which installed packages offer entries of their own; "" for none.
        suggests: whether the error names the nearest known name.
    """

    def __init__(
        self, kind: str, *, package: str = "", entry_points: str = "", suggests: bool = True
    ) -> None:
        self.kind = kind
        self._suggests = suggests
        self._entries: dict[str, T] = {}
        self._package = package
        self._group = entry_points

    def add(self, entry: T, *names: str) -> T:
        """Return `entry`, now known by each of `names`."""
        for name in names:
            assert name not in self._entries, f"{self.kind} {name} is registered twice"
            self._entries[name] = entry
        return entry

    def __getitem__(self, name: str) -> T:
        """The entry of that name, an installed package's imported at its first use.

        Raises:
            UserError: the name is unknown.
        """
        self._import_package()
        if name not in self._entries:
            offered = self._offered()
            if name not in offered:
                raise UserError(unknown_name_message(self.kind, name, self, suggests=self._suggests))
            self._entries[name] = offered[name].load()
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        self._import_package()
        return name in self._entries or name in self._offered()

    def __iter__(self) -> Iterator[str]:
        self._import_package()
        return iter(dict.fromkeys([*self._entries, *self._offered()]))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def _import_package(self) -> None:
        if not self._package:
            return
        name, self._package = self._package, ""
        for module in pkgutil.iter_modules(importlib.import_module(name).__path__):
            importlib.import_module(f"{name}.{module.name}")

    def _offered(self) -> dict[str, EntryPoint]:
        """What installed packages offer, by name."""
        return {point.name: point for point in entry_points(group=self._group)} if self._group else {}
