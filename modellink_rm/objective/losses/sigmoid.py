"""The Bradley-Terry likelihood."""

from torch import Tensor
from torch.nn.functional import logsigmoid

from modellink_rm.objective.losses.registry import LOSSES, ScoredPairs


def sigmoid_loss(pairs: ScoredPairs) -> Tensor:
    """-log sigmoid(r_chosen - r_rejected) of each pair [n], float32; margins of the data are not used.

    The Bradley-Terry likelihood (Stiennon et al. 2020, arXiv 2009.01325; Ouyang et al. 2022,
    arXiv 2203.02155, eq. 1). `logsigmoid` stays finite where -log(sigmoid(x)) overflows.
    """
    return -logsigmoid(pairs.chosen - pairs.rejected)


LOSSES.add(sigmoid_loss, "sigmoid")
