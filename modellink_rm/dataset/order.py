"""The order in which a run reads its training examples."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class SampleOrder:
    """An endless order with every example once per epoch; sample i depends only on these attributes.

    Attributes:
        num_examples: of the training part.
        shuffle: use a permutation per epoch, instead of the part's own order.
    """

    num_examples: int
    shuffle: bool
    seed: int

    def samples(self, start: int, stop: int) -> Iterator[int]:
        """Indices into the training part of samples `start` to `stop` of the run."""
        for sample in range(start, stop):
            epoch, place = divmod(sample, self.num_examples)
            yield int(_shuffled(self.num_examples, self.seed, epoch)[place]) if self.shuffle else place


@functools.lru_cache(maxsize=2)  # a global batch is in one epoch or in two
def _shuffled(num_examples: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(num_examples)
