"""The accuracy of pairs: the one formula of training, scoring and evaluation."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
TIE_CREDIT = 0.5


def accuracy(wins: float, ties: float, num_pairs: int) -> float:
    """The share of pairs whose chosen score is above the rejected one; a tie counts half."""
    return (wins + TIE_CREDIT * ties) / num_pairs


def pair_credits(chosen: NDArray[Any], rejected: NDArray[Any]) -> Floats:
    """What each of n pairs adds to the accuracy: 1, or 0.5 for a tie, or 0; their mean is the accuracy.

    Args:
        chosen: [n], finite.
        rejected: [n], finite.
    """
    return np.where(chosen > rejected, 1.0, np.where(chosen == rejected, TIE_CREDIT, 0.0))
