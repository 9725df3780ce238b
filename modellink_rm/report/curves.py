"""Curves of a run over its steps, from the rows of metrics.jsonl."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from modellink_rm.metrics.accuracy import Floats

MOST_POINTS = 400  # of a curve on the page


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Values over steps.

    Attributes:
        label: what the legend calls it; "" for none.
        iterations: float64 [n], ascending.
        values: float64 [n], finite.
        colour: which colour of the palette.
        is_faint: a background to other curves.
        line: of matplotlib: "-", "--", ":" or "-.".
    """

    label: str
    iterations: Floats
    values: Floats
    colour: int = 0
    is_faint: bool = False
    line: str = "-"


def column(rows: Sequence[Mapping[str, Any]], name: str) -> tuple[Floats, Floats]:
    """The iterations and finite values of a column [n], of longer ones the means of parts of equal size."""
    points = [
        (row["iteration"], row[name])
        for row in rows
        if isinstance(row.get(name), int | float) and np.isfinite(row[name])
    ]
    both = np.array(points, dtype=np.float64).reshape(-1, 2)
    if len(both) > MOST_POINTS:
        both = np.array([part.mean(axis=0) for part in np.array_split(both, MOST_POINTS)])
    return both[:, 0], both[:, 1]


def held_out_names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of the held-out sets that were evaluated, in order."""
    names = [key.removesuffix("/loss") for row in rows for key in row if key.endswith("/loss")]
    return list(dict.fromkeys(name for name in names if "/" not in name))
