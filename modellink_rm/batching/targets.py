"""Targets: what the data says about the responses of a batch, for the objective to compare with scores."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from modellink_rm.dataset.example import Example


@dataclass(frozen=True, kw_only=True)
class Targets:
    """Targets of r responses, in the order of their scores: example by example, best first.

    Attributes:
        num_responses: of each example, on the host.
        ranks: int64 [r], from 1 for the best response of its example, equal for a tie; 0 if none is
            preferred.
        margins: float32 [r], by how much the best response of its example is preferred to it, 0 for the
            best itself; NaN if the data does not say.
    """

    num_responses: tuple[int, ...]
    ranks: Tensor
    margins: Tensor

    def with_tensors(self, change: Callable[[Tensor], Tensor]) -> "Targets":
        """The same targets with `change` applied to every tensor."""
        return dataclasses.replace(self, ranks=change(self.ranks), margins=change(self.margins))


def targets_of(examples: Sequence[Example]) -> Targets:
    """The targets of a batch of these examples, on the host."""
    return Targets(
        num_responses=tuple(len(example.responses) for example in examples),
        ranks=torch.tensor(list(itertools.chain.from_iterable(map(_ranks, examples))), dtype=torch.int64),
        margins=torch.tensor(
            list(itertools.chain.from_iterable(map(_margins, examples))), dtype=torch.float32
        ),
    )


def _ranks(example: Example) -> Sequence[int]:
    return example.ranks or [0] * len(example.responses)


def _margins(example: Example) -> Sequence[float]:
    if example.margins is None:
        return [math.nan] * len(example.responses)
    return [0.0, *example.margins]
