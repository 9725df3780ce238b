"""Names that a user picks: handlers, templates, losses, model families, commands."""

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from modellink_rm.base.errors import UserError

T = TypeVar("T")


def unknown_name_message(kind: str, name: str, choices: Iterable[str], *, suggests: bool = True) -> str:
    """One line that says that the name is unknown, and lists the choices.

    Args:
        suggests: whether to name the nearest choice; not for a name that the user did not type, since a
            similar one is not what was meant.
    """
    choices = sorted(choices)
    near = difflib.get_close_matches(name, choices, n=1) if suggests else []
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"unknown {kind} {name!r}{hint} (choices: {', '.join(choices)})"


class Registry(Mapping[str, T]):
    """A mapping from names to objects; looking up an unknown name is an error that lists the choices.

    The modules of `package` register their own entries when they are imported, which happens at the first
    lookup of a name that is not registered yet: adding an entry takes one new file in that package. Installed
    packages add entries by entry points; a name of our own always means our own entry.

    Args:
        kind: what the names are, as error messages call them ("--prompt-type").
        package: dotted name of the package whose modules register entries; "" if entries are added directly.
        entry_points: group under which installed packages offer entries of their own; "" for none.
        accepts: whether an object that an installed package offers can be an entry.
        expected: what `accepts` asks for, as error messages call it ("a class").
        suggests: whether the error names the nearest known name.
    """

    def __init__(
        self,
        kind: str,
        *,
        package: str = "",
        entry_points: str = "",
        accepts: Callable[[Any], bool] = lambda entry: True,
        expected: str = "",
        suggests: bool = True,
    ) -> None:
        self.kind = kind
        self._suggests = suggests
        self._entries: dict[str, T] = {}
        self._package = package
        self._group = entry_points
        self._accepts = accepts
        self._expected = expected

    def add(self, entry: T, *names: str) -> T:
        """Register `entry` under each of `names`, and return it."""
        for name in names:
            assert name not in self._entries, f"{self.kind} {name} is registered twice"
            self._entries[name] = entry
        return entry

    def __getitem__(self, name: str) -> T:
        """The entry of that name; one that an installed package offers is imported at its first use.

        Raises:
            UserError: the name is unknown, or what an installed package offers cannot be used.
        """
        if name not in self._entries:
            self._import_package()
        if name not in self._entries:
            self._entries[name] = self._load(name)
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        self._import_package()
        return name in self._entries or any(point.name == name for point in self._points())

    def __iter__(self) -> Iterator[str]:
        self._import_package()
        return iter(dict.fromkeys([*self._entries, *(point.name for point in self._points())]))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def _import_package(self) -> None:
        if not self._package:
            return
        name, self._package = self._package, ""
        for module in pkgutil.iter_modules(importlib.import_module(name).__path__):
            importlib.import_module(f"{name}.{module.name}")

    def _load(self, name: str) -> T:
        """What an installed package offers under that name."""
        points = {point.value: point for point in self._points() if point.name == name}
        if not points:
            raise UserError(unknown_name_message(self.kind, name, self, suggests=self._suggests))
        if len(points) > 1:
            raise UserError(
                f"{self.kind} {name}: several installed packages offer it ({', '.join(sorted(points))}); "
                "uninstall all but one"
            )
        ((value, point),) = points.items()
        try:
            entry: T = point.load()
        except (Exception, SystemExit) as error:  # foreign code, which may raise anything
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(
                f"{self.kind} {name}: {value} of an installed package cannot be imported: {reason}"
            ) from error
        if not self._accepts(entry):
            raise UserError(f"{self.kind} {name}: {value} of an installed package is not {self._expected}")
        return entry

    def _points(self) -> Iterable[EntryPoint]:
        """What installed packages offer."""
        return entry_points(group=self._group) if self._group else ()
