"""Centring: the scores of two responses should add up to 0."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from modellink_rm.batching.targets import Targets


@dataclass(frozen=True, kw_only=True)
class Centering:
    """weight * (r_chosen + r_rejected)^2, the mean over the pairs of an example.

    Eisenstein et al. 2023 (arXiv 2312.09244), who use a weight of 0.01; TRL's
    `center_rewards_coefficient`. The loss of pairs leaves the level of the scores open.
    """

    weight: float

    name: ClassVar[str] = "centering"

    def __call__(self, scores: Tensor, targets: Targets) -> Tensor:
        """The term of each example [num_examples]."""
        squares = (scores[targets.better] + scores[targets.worse]).square()
        return self.weight * targets.mean_by_example(squares, targets.examples[targets.better])
