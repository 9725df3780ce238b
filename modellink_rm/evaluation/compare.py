"""Two models on the same pairs and rows."""

from dataclasses import dataclass

import numpy as np

from modellink_rm.evaluation.pairs import EvaluatedPairs
from modellink_rm.metrics.paired_test import PairedDifference, paired_difference


@dataclass(frozen=True, kw_only=True)
class PairedComparison:
    """The mean credit of one model minus that of another, on what both scored of a set or benchmark."""

    name: str
    num_items: int
    difference: PairedDifference


def compare_set(
    name: str, first: EvaluatedPairs, second: EvaluatedPairs, *, seed: int
) -> PairedComparison | None:
    """Compare two models' scores of the records of one set; None if they scored no pair in common."""
    _, of_first, of_second = np.intersect1d(
        first.numbers, second.numbers, assume_unique=True, return_indices=True
    )
    if not len(of_first):
        return None
    return PairedComparison(
        name=name,
        num_items=len(of_first),
        difference=paired_difference(first.credits[of_first], second.credits[of_second], seed=seed),
    )
