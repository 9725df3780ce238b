"""Dropout before the head: its factors depend on the sample of the run alone, not on how it is computed."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_STREAM = 0x6EAD  # tells these numbers from those of the order of samples


@dataclass(frozen=True, kw_only=True)
class HeadDropout:
    """How hidden states are dropped before the head.

    The numbers of a sample are drawn from the seed and from the sample's number in the run, so that they
    are the same at any parallel size, in any micro-batch, and in a run that is resumed.

    Attributes:
        rate: the probability that a number is dropped.
        hidden_size: numbers of a hidden state.
    """

    rate: float
    hidden_size: int
    seed: int

    def factors(self, samples: Sequence[int], num_responses: Sequence[int]) -> Tensor:
        """What hidden states are multiplied with, float32 [r, h]: 0, or 1 / (1 - rate).

        Args:
            samples: the number in the run of each example.
            num_responses: of each example; r in all.
        """
        blocks = [
            np.random.default_rng([self.seed, _STREAM, sample]).random((number, self.hidden_size), np.float32)
            for sample, number in zip(samples, num_responses, strict=True)
        ]
        numbers = np.concatenate([np.empty((0, self.hidden_size), np.float32), *blocks])
        return torch.from_numpy((numbers >= self.rate).astype(np.float32) / (1 - self.rate))
