"""Small files of which one value is another: of a type that it cannot have, too large, too small."""

import copy
import itertools
from collections.abc import Callable, Iterator
from typing import Any

from modellink_rm.base.errors import UserError

NOTHING = object()
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 3, 10**30, 2.5, -0.5, 1e308, float("nan"), float("inf")),
    *("", "word", "a\nb", "\ud800", "x" * 5000, "../../etc"),
    *([], [1], ["word"], [[]], {}, {"word": 1}, {"word": {}}),
)


def places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of a JSON value and of all that it holds."""
    yield place
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in inner:
        yield from places(item, (*place, name))


def changed(value: Any, place: tuple[Any, ...], new: Any) -> Any:
    """A copy of a JSON value with another one at a path."""
    if not place:
        return new
    whole = copy.deepcopy(value)
    holder = whole
    for name in place[:-1]:
        holder = holder[name]
    holder[place[-1]] = new
    return whole


def without(value: Any, place: tuple[Any, ...]) -> Any:
    """A copy of a JSON value that lacks what is at a path."""
    whole = copy.deepcopy(value)
    holder = whole
    for name in place[:-1]:
        holder = holder[name]
    del holder[place[-1]]
    return whole


def offences(content: Any, use: Callable[[Any], object], *, every: int = 1) -> list[str]:
    """What became of every change that was neither accepted nor refused in one line.

    Args:
        content: of the file, as JSON.
        use: writes such content and does with it what the commands do.
        every: try each of so many changes.
    """
    found = []
    for place, new in itertools.islice(_changes(content), 0, None, every):
        variant = without(content, place) if new is NOTHING else changed(content, place, new)
        wrong = _wrong(variant, use)
        if wrong:
            found.append(f"{'.'.join(map(str, place))} = {repr(new)[:40]}: {wrong}")
    return found


def _changes(content: Any) -> Iterator[tuple[tuple[Any, ...], Any]]:
    for place in places(content):
        yield from ((place, new) for new in (*VALUES, NOTHING) if place or new is not NOTHING)


def _wrong(variant: Any, use: Callable[[Any], object]) -> str | None:
    try:
        use(variant)
    except UserError as error:
        return f"several lines: {error}" if "\n" in str(error) else None
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None
