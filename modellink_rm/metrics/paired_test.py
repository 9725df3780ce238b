"""Whether two models differ on the same items."""

from dataclasses import dataclass
from math import lgamma, log

import numpy as np
from numpy.typing import NDArray

from modellink_rm.metrics.accuracy import Floats
from modellink_rm.metrics.bootstrap import Estimate, estimate_mean

# Holds halves, thirds, quarters, fifths and ninths exactly.
_UNITS = 180


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """The credits of one model minus those of another on the same n items.

    Attributes:
        difference: their mean, with its bootstrap interval.
        num_better: items on which the first has the higher credit.
        num_worse: items on which it has the lower one.
        p_value: two-sided, of the hypothesis that the sign of each item's difference is a coin's.
    """

    difference: Estimate
    num_better: int
    num_worse: int
    p_value: float


def paired_difference(first: Floats, second: Floats, *, seed: int) -> PairedDifference:
    """Compare the credits [n] of two models.

    The exact sign-flip (permutation) test, Fisher 1935: under the hypothesis each difference has either sign
    with equal chance, and the p-value is the chance of a sum as far from 0 as the observed one. Where no
    credit is a fraction it is McNemar's exact test. It rounds differences to 1/180.
    """
    differences = first - second
    units = np.rint(differences * _UNITS).astype(np.int64)
    return PairedDifference(
        difference=estimate_mean(differences, seed=seed),
        num_better=int((units > 0).sum()),
        num_worse=int((units < 0).sum()),
        p_value=_sign_flip_p_value(units),
    )


def _sign_flip_p_value(units: NDArray[np.int64]) -> float:
    sizes, counts = np.unique(np.abs(units[units != 0]), return_counts=True)
    if not len(sizes):
        return 1.0
    common = int(np.gcd.reduce(sizes))
    chances = np.ones(1)  # of the sums -reach, -reach + 2, ... in units of `common`
    for size, count in zip(sizes // common, counts, strict=True):
        spread = np.zeros(int(size * count) + 1)
        spread[:: int(size)] = _binomial(int(count))
        chances = np.convolve(chances, spread)
    reach = int((sizes // common) @ counts)
    sums = np.arange(-reach, reach + 1, 2)
    observed = abs(int(units.sum())) // common
    return min(1.0, float(chances[np.abs(sums) >= observed].sum()))


def _binomial(count: int) -> Floats:
    """The chances of 0 to `count` heads of as many coins."""
    whole = lgamma(count + 1) - count * log(2)
    logs = [whole - lgamma(k + 1) - lgamma(count - k + 1) for k in range(count + 1)]
    chances: Floats = np.exp(np.array(logs))
    return chances
