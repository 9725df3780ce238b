"""The Bradley-Terry likelihood."""

from torch import Tensor
from torch.nn.functional import logsigmoid

from modellink_rm.objective.losses.registry import LOSSES, LossType, ScoredPairs


def sigmoid_loss(pairs: ScoredPairs) -> Tensor:
    """-log sigmoid(r_chosen - r_rejected - margin) of each pair [n], float32.

    The Bradley-Terry likelihood (Stiennon et al. 2020, arXiv 2009.01325; Ouyang et al. 2022, arXiv
    2203.02155, eq. 1, which is the mean over all pairs of a prompt), with the margin of Llama 2 (Touvron et
    al. 2023, arXiv 2307.09288, eq. 2). `logsigmoid` stays finite where -log(sigmoid(x)) overflows.
    """
    return -logsigmoid(pairs.logits)


# kwise: the name under which the loss of Ouyang et al. is known where prompts have K responses.
LOSSES.add(LossType(make=lambda config: sigmoid_loss, uses_margins=True), "sigmoid", "kwise")
