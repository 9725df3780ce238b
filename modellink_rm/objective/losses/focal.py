"""InternLM2's focal ranking loss."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from modellink_rm.objective.losses.registry import LOSSES, LossType, ScoredPairs


@dataclass(frozen=True, kw_only=True)
class FocalLoss:
    """(1 - 2 relu(p - 1/2))^gamma * -log p of each pair [n], with p = sigmoid(r_chosen - r_rejected).

    InternLM2 technical report (arXiv 2403.17297): pairs that the model already orders well
    count less. The factor is part of the function that is differentiated.
    """

    gamma: float

    def __call__(self, pairs: ScoredPairs) -> Tensor:
        """The loss of each pair [n], float32."""
        difference = pairs.chosen - pairs.rejected
        # 1 - 2 (p - 1/2) = 2 sigmoid(-difference): exact where p rounds to 1. By its logarithm, since the
        # derivative of 0^gamma is infinite for a gamma below 1.
        log_factor = torch.where(difference > 0, math.log(2) + logsigmoid(-difference), 0.0)
        return torch.exp(self.gamma * log_factor) * -logsigmoid(difference)


LOSSES.add(LossType(make=lambda config: FocalLoss(gamma=config.focal_gamma)), "focal")
