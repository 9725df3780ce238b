"""Ranks with ties, and what is made of them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from modellink_rm.metrics.accuracy import Floats


def tied_ranks(values: NDArray[Any]) -> Floats:
    """The rank of each value [n], from 1 for the lowest; equal values share the mean of their ranks."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: Floats = (last - (counts - 1) / 2)[places]
    return ranks


def area_under_curve(scores: NDArray[Any], is_positive: NDArray[np.bool_]) -> float:
    """The area under the ROC curve: how often a positive scores above a negative, ties counting half.

    The Mann-Whitney statistic by tie-averaged ranks (Hanley and McNeil 1982). NaN without one of each.

    Args:
        scores: [n].
        is_positive: [n].
    """
    num_positive = int(is_positive.sum())
    num_negative = len(scores) - num_positive
    if not num_positive or not num_negative:
        return float("nan")
    rank_sum = float(tied_ranks(scores)[is_positive].sum())
    return (rank_sum - num_positive * (num_positive + 1) / 2) / (num_positive * num_negative)
