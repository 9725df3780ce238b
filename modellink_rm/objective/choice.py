"""The objective that the flags choose."""

from modellink_rm.objective.losses.registry import LOSSES
from modellink_rm.objective.objective import Objective
from modellink_rm.objective.pairwise import PairwiseObjective


def choose_objective(loss_type: str) -> Objective:
    """The objective with the loss of --loss-type.

    Raises:
        UserError: there is no such loss.
    """
    return PairwiseObjective(loss=LOSSES[loss_type])
