"""Statistics of lengths in tokens, from exact counts of each length."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class LengthStatistics:
    """Lengths of one kind, in tokens.

    Attributes:
        total: sum of them.
        mean: rounded to two places.
        shortest: 0 if there are none.
        median: the smallest length that half of them do not exceed.
        p95: likewise for 95%.
        p99: likewise for 99%.
        longest: 0 if there are none.
        histogram: "0-31", "32-63", "64-127" and so on by doubling -> count.
    """

    total: int
    mean: float
    shortest: int
    median: int
    p95: int
    p99: int
    longest: int
    histogram: dict[str, int]


class LengthCounts:
    """Counts of each length; memory grows only with the longest."""

    def __init__(self) -> None:
        self._counts: NDArray[np.int64] = np.zeros(64, np.int64)

    def add(self, lengths: NDArray[np.int32]) -> None:
        """Count these lengths."""
        counts = np.bincount(lengths, minlength=len(self._counts))
        counts[: len(self._counts)] += self._counts
        self._counts = counts

    def statistics(self) -> LengthStatistics:
        """The statistics of the counts so far."""
        counts = self._counts
        values = np.flatnonzero(counts)
        num = int(counts.sum())
        total = int((counts * np.arange(len(counts))).sum())
        cumulative = np.cumsum(counts)

        def quantile(percent: int) -> int:
            # in integers: no rounding that depends on the machine
            return int(np.searchsorted(cumulative, -(-num * percent // 100))) if num else 0

        return LengthStatistics(
            total=total,
            mean=round(total / num, 2) if num else 0.0,
            shortest=int(values[0]) if num else 0,
            median=quantile(50),
            p95=quantile(95),
            p99=quantile(99),
            longest=int(values[-1]) if num else 0,
            histogram=self._histogram(),
        )

    def _histogram(self) -> dict[str, int]:
        bins = {}
        start, stop = 0, 32
        last = int(np.flatnonzero(self._counts)[-1]) if self._counts.any() else -1
        while start <= last:
            bins[f"{start}-{stop - 1}"] = int(self._counts[start:stop].sum())
            start, stop = stop, 2 * stop
        return bins
