"""A mixture of data sets: the share of each in a run, and in which turns samples are read of them."""

import functools
import heapq
import math
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import PurePath

import numpy as np
from numpy.typing import NDArray

from modellink_rm.config.data import DataConfig

_TEMPERED_TOTAL = 10**6  # shares by temperature are rounded to a millionth, so that turns repeat
_BLOCK = 8192  # turns that are worked out together


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """The shares of data sets in the samples of a run.

    Attributes:
        names: of the data sets, for metrics.
        sizes: rows of each one that are trained on, at least 1.
        weights: whole numbers in proportion to the shares.
        epoch_size: samples of an epoch of the run.
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    weights: tuple[int, ...]
    epoch_size: int

    def shares(self) -> tuple[float, ...]:
        """The share of each data set, adding up to 1."""
        return tuple(weight / sum(self.weights) for weight in self.weights)

    def epochs(self, num_samples: int) -> tuple[float, ...]:
        """The times that so many samples of the run read each data set."""
        pairs = zip(self.shares(), self.sizes, strict=True)
        return tuple(num_samples * share / size for share, size in pairs)


def mixture_of(config: DataConfig, prefixes: Sequence[str], sizes: Sequence[int]) -> Mixture:
    """The mixture that the flags ask for; by the numbers of rows where they ask for none.

    Args:
        sizes: rows of each data set that are trained on.
    """
    epoch_size = sum(sizes)
    weights: Sequence[Fraction | int] = sizes
    if config.data_weights:
        weights = config.data_weights
    elif config.data_epochs:
        weights = [Fraction(str(times)) * size for times, size in zip(config.data_epochs, sizes, strict=True)]
        epoch_size = max(1, round(sum(weights)))
    elif config.data_temperature is not None:
        weights = _tempered(sizes, config.data_temperature)
    return Mixture(
        names=names_of(prefixes), sizes=tuple(sizes), weights=_whole(weights), epoch_size=epoch_size
    )


def _tempered(sizes: Sequence[int], temperature: float) -> list[int]:
    """Weights in proportion to sizes^(1/T) (Arivazhagan et al. 2019, arXiv 1907.05019)."""
    powers = [math.exp(math.log(size / max(sizes)) / temperature) for size in sizes]
    return [max(1, round(_TEMPERED_TOTAL * power / sum(powers))) for power in powers]


def _whole(weights: Sequence[Fraction | int]) -> tuple[int, ...]:
    """The smallest whole numbers in the proportions of the weights."""
    denominator = math.lcm(*(Fraction(weight).denominator for weight in weights))
    whole = [int(weight * denominator) for weight in weights]
    divisor = math.gcd(*whole)
    return tuple(weight // divisor for weight in whole)


def names_of(prefixes: Sequence[str]) -> tuple[str, ...]:
    """Names of data sets: the last component of each prefix, with components before it where two are equal.

    >>> names_of(["data/hh/pairs", "data/safe/pairs", "data/math"])
    ('hh.pairs', 'safe.pairs', 'math')
    """
    parts = [PurePath(prefix).parts for prefix in prefixes]

    def name(number: int) -> str:
        own = parts[number]
        for length in range(1, len(own) + 1):
            others = [other[-length:] for place, other in enumerate(parts) if place != number]
            if own[-length:] not in others:
                break
        return ".".join(part.strip("/") for part in own[-length:])

    found: list[str] = []
    for number in range(len(prefixes)):
        own = name(number)
        while own in found:  # of hh/pairs beside hh.pairs
            own += "'"
        found.append(own)
    return tuple(found)


class Turns:
    """Which data set each sample of a run is read of, and how many samples were read of it before.

    Every data set gets each of its turns within the turn's window: the j-th one (from 0) of a data set with
    share w is not before sample j/w and not after (j + 1)/w, rounded outwards. Among the turns whose window
    has begun, the one that ends first is next; so at every prefix of the order, each data set has its share
    of the samples up to less than one (Baruah, Cohen, Plaxton and Varvel 1996, "Proportionate progress").
    After as many samples as the sum of the weights everything repeats.

    Args:
        weights: whole numbers above 0.
    """

    def __init__(self, weights: Sequence[int]) -> None:
        self._weights = tuple(weights)
        self._period = sum(weights)
        self._lock = threading.Lock()
        self._starts: list[tuple[int, ...]] = [(0,) * len(weights)]  # turns before each block
        self._block = functools.lru_cache(maxsize=4)(self._worked_out)

    def between(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """The pairs (data set, samples of it before) of samples `start` to `stop`."""
        for sample in range(start, stop):
            period, place = divmod(sample, self._period)
            number, within = divmod(place, _BLOCK)
            sources, before = self._block(number)
            source = int(sources[within])
            yield source, period * self._weights[source] + int(before[within])

    def _worked_out(self, number: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """The turns of a block."""
        with self._lock:
            while len(self._starts) <= number:
                self._starts.append(self._turns(len(self._starts) - 1)[2])
            sources, before, after = self._turns(number)
            if len(self._starts) == number + 1:
                self._starts.append(after)
        return sources, before

    def _turns(self, number: int) -> tuple[NDArray[np.int32], NDArray[np.int64], tuple[int, ...]]:
        """The turns of a block, and how many turns each data set has had after it."""
        weights, period = self._weights, self._period
        counts = list(self._starts[number])
        waiting = [(count * period // weights[which], which) for which, count in enumerate(counts)]
        heapq.heapify(waiting)  # by the beginnings of their windows
        ready: list[tuple[int, int]] = []  # by the ends of theirs
        places = range(number * _BLOCK, min((number + 1) * _BLOCK, period))
        sources, before = np.empty(len(places), np.int32), np.empty(len(places), np.int64)
        for index, place in enumerate(places):
            while waiting and waiting[0][0] <= place:
                _, which = heapq.heappop(waiting)
                heapq.heappush(ready, (-(-(counts[which] + 1) * period // weights[which]), which))
            _, source = heapq.heappop(ready)
            sources[index], before[index] = source, counts[source]
            counts[source] += 1
            heapq.heappush(waiting, (counts[source] * period // weights[source], source))
        return sources, before, tuple(counts)


@functools.lru_cache(maxsize=2)
def turns_of(weights: tuple[int, ...]) -> Turns:
    """The turns by these weights, which are worked out once."""
    return Turns(weights)
