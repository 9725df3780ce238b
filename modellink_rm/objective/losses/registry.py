"""What a loss of pairs is given and returns, and the names that --loss-type knows."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from modellink_rm.base.registry import Registry


@dataclass(frozen=True, kw_only=True)
class ScoredPairs:
    """Scores of n pairs.

    Attributes:
        chosen: float32 [n], of the preferred responses.
        rejected: float32 [n], of the others.
        margins: float32 [n], by how much the data prefers one to the other; NaN where it does not say.
    """

    chosen: Tensor
    rejected: Tensor
    margins: Tensor


# -> loss of each pair [n], float32, finite for any finite scores
PairLoss = Callable[[ScoredPairs], Tensor]

LOSSES: Registry[PairLoss] = Registry(
    "--loss-type",
    package="modellink_rm.objective.losses",
    entry_points="modellink_rm.losses",
    accepts=callable,
    expected="a function",
)
