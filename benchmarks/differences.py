"""How far the numbers of two programs are apart."""

from collections.abc import Sequence

import numpy as np


def largest_difference(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Largest absolute difference of two columns; NaN if a number is, which Python's `max` may pass over.

    Raises:
        ValueError: one column is longer.
    """
    return float(np.max([abs(one - other) for one, other in zip(ours, theirs, strict=True)]))
