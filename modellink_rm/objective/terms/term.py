"""The interface of terms."""

from typing import Protocol

from torch import Tensor

from modellink_rm.batching.targets import Targets


class Term(Protocol):
    """Something that is added to the loss of every example."""

    @property
    def name(self) -> str:
        """Its name in the metrics."""

    def __call__(self, scores: Tensor, targets: Targets) -> Tensor:
        """The weighted term of each example [num_examples], from the scores [num_responses] of all."""
