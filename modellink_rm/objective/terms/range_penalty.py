"""InternLM2's logarithmic barrier around the range of scores."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import relu

from modellink_rm.batching.targets import Targets

# XTuner's distance from the ends of the range at which the barrier ends.
_EDGE = 1e-3


@dataclass(frozen=True, kw_only=True)
class RangePenalty:
    """weight * (-log(high - r) - log(r - low)), the mean over the responses of an example.

    InternLM2 technical report (arXiv 2403.17297), whose weight is 0.02 for the range -5 to 5;
    XTuner's penalty_weight 0.01, on a sum over both scores of a pair, is the same number. XTuner clamps a
    score outside the range, which then gets no gradient; here the barrier goes on along its tangent from
    0.001 before each end, so that the score is pulled back.
    """

    weight: float
    low: float
    high: float

    name: ClassVar[str] = "range_penalty"

    def __call__(self, scores: Tensor, targets: Targets) -> Tensor:
        """The term of each example [num_examples]."""
        # By the distances from the ends, which float32 has exactly near them: those of a clamped score
        # would round the 0.001 to three digits.
        to_high, to_low = self.high - scores, scores - self.low
        farthest = self.high - self.low - _EDGE
        at_high, at_low = to_high.clamp(_EDGE, farthest), to_low.clamp(_EDGE, farthest)
        slope = (1 / at_high - 1 / at_low).detach()
        outside = relu(_EDGE - to_high) - relu(_EDGE - to_low)
        barrier = -torch.log(at_high) - torch.log(at_low) + slope * outside
        return self.weight * targets.mean_by_example(barrier, targets.examples)
