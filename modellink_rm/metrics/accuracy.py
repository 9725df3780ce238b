"""The accuracy of pairs: the one formula of training, scoring and evaluation."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
TIE_CREDIT = 0.5


def accuracy(wins: float, ties: float, num_pairs: int) -> float:
    """The share of pairs whose chosen score is above the rejected one; a tie counts half."""
    return (wins + TIE_CREDIT * ties) / num_pairs


def ranked_pairs(ranks: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The responses of every pair of different ranks: the better ones [c] and the worse ones [c].

    Args:
        ranks: of the responses, best first, from 1.
    """
    pairs = [
        (one, other)
        for one, other in itertools.combinations(range(len(ranks)), 2)
        if ranks[one] < ranks[other]
    ]
    both = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return both[:, 0], both[:, 1]


def pair_credits(chosen: NDArray[Any], rejected: NDArray[Any]) -> Floats:
    """What each of n pairs adds to the accuracy: 1, or 0.5 for a tie, or 0; their mean is the accuracy.

    Args:
        chosen: [n], finite.
        rejected: [n], finite.
    """
    return np.where(chosen > rejected, 1.0, np.where(chosen == rejected, TIE_CREDIT, 0.0))
