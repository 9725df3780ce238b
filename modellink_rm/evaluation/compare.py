"""Two models on the same pairs."""

from dataclasses import dataclass

import numpy as np

from modellink_rm.evaluation.pairs import EvaluatedPairs
from modellink_rm.metrics.paired_test import PairedDifference, paired_difference


@dataclass(frozen=True, kw_only=True)
class SetComparison:
    """The accuracy of one model minus that of another, on the pairs of a set that both scored."""

    name: str
    num_pairs: int
    difference: PairedDifference


def compare_set(
    name: str, first: EvaluatedPairs, second: EvaluatedPairs, *, seed: int
) -> SetComparison | None:
    """Compare two models' scores of the records of one set; None if they scored no pair in common."""
    _, of_first, of_second = np.intersect1d(
        first.numbers, second.numbers, assume_unique=True, return_indices=True
    )
    if not len(of_first):
        return None
    return SetComparison(
        name=name,
        num_pairs=len(of_first),
        difference=paired_difference(first.credits[of_first], second.credits[of_second], seed=seed),
    )
