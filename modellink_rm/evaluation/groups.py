"""The accuracy of parts of a set: by source, by length, by margin."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modellink_rm.evaluation.pairs import EvaluatedPairs
from modellink_rm.metrics.accuracy import Floats
from modellink_rm.metrics.bootstrap import Estimate, estimate_mean

NUM_PARTS = 5
MOST_SOURCES = 40
NO_SOURCE = "(no source)"
Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Group:
    """The accuracy of a part of a set.

    Attributes:
        longer_accuracy: that of choosing the longer response, an equal length counting half.
    """

    name: str
    num_pairs: int
    accuracy: Estimate
    longer_accuracy: float


def groups_by_source(pairs: EvaluatedPairs, *, seed: int) -> list[Group]:
    """A group for each of the 40 largest sources, by name, and one for the rest; none without any source."""
    counts = Counter(source or NO_SOURCE for source in pairs.sources)
    if set(counts) <= {NO_SOURCE}:
        return []
    kept = {name for name, _ in counts.most_common(MOST_SOURCES)}
    rest = f"({len(counts) - len(kept)} other sources)"
    names = [name if name in kept else rest for name in (source or NO_SOURCE for source in pairs.sources)]
    masks = [(name, np.array([one == name for one in names])) for name in sorted(set(names))]
    return _groups(pairs, masks, seed=seed)


def groups_by_length(pairs: EvaluatedPairs, *, seed: int) -> list[Group]:
    """Up to five groups by how many characters the chosen response is longer than the rejected one."""
    difference = (pairs.chosen_length - pairs.rejected_length).astype(np.float64)
    return _groups(pairs, parts_by_number(difference), seed=seed)


def groups_by_margin(pairs: EvaluatedPairs, *, seed: int) -> list[Group]:
    """Up to five groups by the data's margin; pairs without one are in none."""
    return _groups(pairs, parts_by_number(pairs.margins), seed=seed)


def parts_by_number(values: Floats) -> list[tuple[str, Mask]]:
    """Names and members of the parts of values [n]; NaN is in none.

    A part for each value if there are at most five, else five parts of about equal size: equal values are
    never divided.
    """
    known = values[~np.isnan(values)]
    distinct = np.unique(known)
    if len(distinct) <= NUM_PARTS:
        return [(f"{value:g}", values == value) for value in distinct]
    ends = [len(known) * number // NUM_PARTS - 1 for number in range(1, NUM_PARTS)]
    edges = np.unique(np.sort(known)[ends])  # the largest value of each part but the last
    place = np.where(np.isnan(values), -1, np.searchsorted(edges, values))
    masks = [place == number for number in range(len(edges) + 1)]
    return [(_range_name(values[mask].min(), values[mask].max()), mask) for mask in masks if mask.any()]


def _range_name(low: float, high: float) -> str:
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def _groups(pairs: EvaluatedPairs, masks: Sequence[tuple[str, Mask]], *, seed: int) -> list[Group]:
    credits, length_credits = pairs.credits, pairs.length_credits
    return [
        Group(
            name=name,
            num_pairs=int(mask.sum()),
            accuracy=estimate_mean(credits[mask], seed=seed),
            longer_accuracy=float(length_credits[mask].mean()),
        )
        for name, mask in masks
    ]
