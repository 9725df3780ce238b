"""The Bradley-Terry likelihood as OpenRLHF's second form writes it."""

from torch import Tensor
from torch.nn.functional import softplus

from modellink_rm.objective.losses.registry import LOSSES, LossType, ScoredPairs


def logexp_loss(pairs: ScoredPairs) -> Tensor:
    """log(1 + exp(r_rejected - r_chosen + margin)) of each pair [n], float32.

    The same function as `sigmoid`, in the form of OpenRLHF's LogExpLoss; written as softplus, which stays
    finite where exp overflows.
    """
    return softplus(-pairs.logits)


LOSSES.add(LossType(make=lambda config: logexp_loss, uses_margins=True), "logexp")
