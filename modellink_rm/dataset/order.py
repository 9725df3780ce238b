"""The order in which a run reads its training examples."""

import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from modellink_rm.dataset.mixture import Mixture, turns_of


class Order(Protocol):
    """An endless order; sample i depends on nothing but its attributes, whatever was read before."""

    def samples(self, start: int, stop: int) -> Iterator[int]:
        """Indices into the training part of samples `start` to `stop` of the run."""


@dataclass(frozen=True, kw_only=True)
class SampleOrder:
    """An endless order with every example once per epoch.

    Attributes:
        num_examples: of the training part.
        shuffle: use a permutation per epoch, instead of the part's own order.
        stream: tells the permutations of a data set from those of others; () of a run's only one.
    """

    num_examples: int
    shuffle: bool
    seed: int
    stream: tuple[int, ...] = ()

    def samples(self, start: int, stop: int) -> Iterator[int]:
        """Indices into the training part of samples `start` to `stop` of the run."""
        return map(self.sample, range(start, stop))

    def sample(self, number: int) -> int:
        """The index of one sample."""
        epoch, place = divmod(number, self.num_examples)
        return int(self._shuffled(epoch)[place]) if self.shuffle else place

    @functools.cached_property
    def _shuffled(self) -> Callable[[int], NDArray[np.int64]]:
        """The permutation of an epoch; those of two are kept, since a global batch is in one or in two."""

        def permutation(epoch: int) -> NDArray[np.int64]:
            return np.random.default_rng([self.seed, *self.stream, epoch]).permutation(self.num_examples)

        return functools.lru_cache(maxsize=2)(permutation)


@dataclass(frozen=True, kw_only=True)
class MixtureOrder:
    """An endless order in which every data set has its share of every prefix, up to less than one sample.

    The samples of each data set are in the order of a `SampleOrder` of its own: none comes a second time
    before all have come once.
    """

    mixture: Mixture
    shuffle: bool
    seed: int

    def samples(self, start: int, stop: int) -> Iterator[int]:
        """Indices into the data sets in sequence of samples `start` to `stop` of the run."""
        for source, number in turns_of(self.mixture.weights).between(start, stop):
            yield self._firsts[source] + self._orders[source].sample(number)

    @functools.cached_property
    def _firsts(self) -> list[int]:
        """The index of each data set's first example."""
        return [0, *itertools.accumulate(self.mixture.sizes)]

    @functools.cached_property
    def _orders(self) -> list[SampleOrder]:
        return [
            SampleOrder(num_examples=size, shuffle=self.shuffle, seed=self.seed, stream=(number,))
            for number, size in enumerate(self.mixture.sizes)
        ]


def order_of(mixture: Mixture, *, shuffle: bool, seed: int) -> Order:
    """The order of a run.

    Data sets that are neither shuffled nor weighted are read one after the other.
    """
    is_by_rows = all(
        weight * sum(mixture.sizes) == size * sum(mixture.weights)
        for weight, size in zip(mixture.weights, mixture.sizes, strict=True)
    )
    if len(mixture.sizes) == 1 or (is_by_rows and not shuffle):
        return SampleOrder(num_examples=sum(mixture.sizes), shuffle=shuffle, seed=seed)
    return MixtureOrder(mixture=mixture, shuffle=shuffle, seed=seed)
