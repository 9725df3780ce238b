"""The squared error of ratings."""

from torch import Tensor

from modellink_rm.objective.losses.registry import LOSSES, RatingLossType


def squared_error(outputs: Tensor, ratings: Tensor) -> Tensor:
    """(output - rating)^2, float32, of the shape of both.

    The loss of reward models that are trained on ratings: HelpSteer2 (Wang et al. 2024, arXiv 2406.08673,
    section 4), SteerLM (Dong et al. 2023, arXiv 2310.05344).
    """
    return (outputs - ratings).square()


LOSSES.add(RatingLossType(loss=squared_error), "regression")
