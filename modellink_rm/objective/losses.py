"""Losses over preference pairs, each a sum over examples in float32."""

from collections.abc import Callable

from torch import Tensor
from torch.nn.functional import logsigmoid

from modellink_rm.base.registry import Registry

# (chosen scores [n], rejected scores [n]) -> loss of each pair [n]
PairLoss = Callable[[Tensor, Tensor], Tensor]

PAIR_LOSSES: Registry[PairLoss] = Registry("--loss-type")


def sigmoid_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    """-log sigmoid(r_chosen - r_rejected) of each pair [n], float32.

    The Bradley-Terry likelihood (Stiennon et al. 2020, arXiv 2009.01325; Ouyang et al. 2022,
    arXiv 2203.02155, eq. 1). `logsigmoid` stays finite where -log(sigmoid(x)) overflows.
    """
    return -logsigmoid(chosen - rejected)


PAIR_LOSSES.add(sigmoid_loss, "sigmoid")


def split_pairs(scores: Tensor) -> tuple[Tensor, Tensor]:
    """(chosen [n], rejected [n]) of scores [2n] in the order of a batch of pairs."""
    pairs = scores.view(-1, 2)
    return pairs[:, 0], pairs[:, 1]
