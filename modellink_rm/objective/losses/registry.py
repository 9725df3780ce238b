"""The interface of losses of pairs, and the names that --loss-type accepts."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from modellink_rm.base.registry import Registry


@dataclass(frozen=True, kw_only=True)
class ScoredPairs:
    """Scores of n pairs.

    Attributes:
        chosen: float32 [n], of the preferred responses.
        rejected: float32 [n], of the other responses.
        margins: float32 [n], by how much the data prefers chosen to rejected; NaN if it does not say.
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
