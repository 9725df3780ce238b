"""The mean squared score."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from modellink_rm.batching.targets import Targets


@dataclass(frozen=True, kw_only=True)
class ScoreL2:
    """weight * r^2, the mean over the responses of an example."""

    weight: float

    name: ClassVar[str] = "score_l2"

    def __call__(self, scores: Tensor, targets: Targets) -> Tensor:
        """The term of each example [num_examples]."""
        return self.weight * targets.mean_by_example(scores.square(), targets.examples)
