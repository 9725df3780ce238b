"""Confidence intervals of means by the bootstrap."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from modellink_rm.metrics.accuracy import Floats

NUM_RESAMPLES = 1000
_FEW_VALUES = 20  # credits, say
_PERCENTILES = (2.5, 97.5)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A value with its 95% interval."""

    value: float
    low: float
    high: float


def estimate_mean(values: Floats, *, seed: int) -> Estimate:
    """The mean of values [n], n at least 1, with the percentile bootstrap's interval.

    Efron 1979: the percentiles 2.5 and 97.5 of the means of 1,000 samples of n with replacement.
    """

    distinct, counts = np.unique(values, return_counts=True)

    def resampled(generator: np.random.Generator) -> float:
        if len(distinct) > _FEW_VALUES:
            return float(values[generator.integers(len(values), size=len(values))].mean())
        # How often each value is drawn, which is far faster for many items.
        drawn = generator.multinomial(len(values), counts / len(values))
        return float(drawn @ distinct) / len(values)

    return estimate(float(values.mean()), resampled, seed=seed)


def estimate(value: float, resampled: Callable[[np.random.Generator], float], *, seed: int) -> Estimate:
    """A value with the interval of what `resampled` returns 1,000 times."""
    generator = np.random.default_rng(seed)
    found = [resampled(generator) for _ in range(NUM_RESAMPLES)]
    low, high = np.percentile(found, _PERCENTILES)
    return Estimate(value=value, low=float(low), high=float(high))
