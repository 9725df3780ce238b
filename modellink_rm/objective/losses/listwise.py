"""The Plackett-Luce likelihood of a ranking."""

import torch
from torch import Tensor

from modellink_rm.batching.targets import Targets
from modellink_rm.objective.losses.registry import LOSSES, RankingLossType


def listwise_loss(scores: Tensor, targets: Targets) -> Tensor:
    """The negative log likelihood of each example's ranking [num_examples], from the scores [r].

    Plackett (1975): the best response is drawn with probability softmax(scores), the next from what is left,
    and so on: the sum over responses of log(1 + sum of exp(score of a worse one - its score)). Responses of
    the same rank are not compared with each other. For pairs it is the loss `sigmoid`.
    """
    differences = scores[targets.worse] - scores[targets.better]
    # The largest exponent of each response, at least the 0 of its own score; a constant for the gradient.
    shifts = torch.zeros_like(scores).scatter_reduce(0, targets.better, differences.detach(), "amax")
    terms = torch.exp(differences - shifts[targets.better])
    sums = torch.exp(-shifts).index_put((targets.better,), terms, accumulate=True)
    return targets.sum_by_example(shifts + torch.log(sums), targets.examples)


LOSSES.add(RankingLossType(loss=listwise_loss), "listwise")
