"""The Bradley-Terry likelihood, scaled by the strength of the preference."""

from torch import Tensor
from torch.nn.functional import logsigmoid

from modellink_rm.objective.losses.registry import LOSSES, LossType, ScoredPairs


def scaled_loss(pairs: ScoredPairs) -> Tensor:
    """m * -log sigmoid(r_chosen - r_rejected) of each pair [n], float32, with m its margin.

    The scaled Bradley-Terry loss of HelpSteer2-Preference (arXiv 2410.01257), where m is the strength
    of the preference, 1 to 3.
    """
    return pairs.margins.abs() * -logsigmoid(pairs.chosen - pairs.rejected)


LOSSES.add(LossType(make=lambda config: scaled_loss, needs_margins=True), "scaled")
