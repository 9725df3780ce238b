"""The objective that the flags choose."""

import dataclasses

from modellink_rm.base.errors import UserError
from modellink_rm.base.flags import flag_name
from modellink_rm.config.objective import ObjectiveConfig
from modellink_rm.config.training import PROCESS_STAGE
from modellink_rm.objective.length_penalty import LengthPenalty
from modellink_rm.objective.losses.registry import LOSSES, LossType, RankingLossType, RatingLossType
from modellink_rm.objective.objective import Objective
from modellink_rm.objective.preference import PreferenceObjective
from modellink_rm.objective.process import ProcessObjective
from modellink_rm.objective.regression import RegressionObjective
from modellink_rm.objective.terms.centering import Centering
from modellink_rm.objective.terms.range_penalty import RangePenalty
from modellink_rm.objective.terms.score_l2 import ScoreL2
from modellink_rm.objective.terms.term import Term


def choose_objective(
    loss_type: str, config: ObjectiveConfig | None = None, *, stage: str = "rm"
) -> Objective:
    """The objective of --stage, with the loss of --loss-type and the terms that have a weight.

    Raises:
        UserError: there is no such loss, or a flag has no meaning for it or for the stage.
    """
    config = config or ObjectiveConfig()
    if stage == PROCESS_STAGE:
        _check_no_flag_of_preferences(
            config, f"with --stage {PROCESS_STAGE}: its loss is the cross entropy of each step"
        )
        return ProcessObjective()
    loss = LOSSES[loss_type]
    if isinstance(loss, RatingLossType):
        _check_no_flag_of_preferences(
            config, f"for --loss-type {loss_type}, whose outputs are compared with ratings"
        )
        return RegressionObjective(loss=loss)
    if config.tie_threshold and not (isinstance(loss, LossType) and loss.uses_margins):
        raise UserError(
            f"--tie-threshold has no meaning for --loss-type {loss_type}: ties belong to the likelihood of "
            "sigmoid, logexp and kwise"
        )
    if config.label_smoothing and isinstance(loss, RankingLossType):
        raise UserError(
            f"--label-smoothing has no meaning for --loss-type {loss_type}, which has no pairs; --loss-type "
            "kwise takes it"
        )
    if isinstance(loss, LossType) and loss.needs_margins and not config.margin_weight:
        raise UserError(
            f"--loss-type {loss_type} scales the loss by the margins; --margin-weight cannot be 0"
        )
    objective = PreferenceObjective(loss=loss, config=config, terms=tuple(_terms(config)))
    if config.length_penalty_weight:
        return LengthPenalty(objective=objective, weight=config.length_penalty_weight)
    return objective


def _check_no_flag_of_preferences(config: ObjectiveConfig, why: str) -> None:
    """No flag is given: all of them are about losses of preferences.

    Args:
        why: what they have no meaning for, with the reason.

    Raises:
        UserError: one is.
    """
    for field in dataclasses.fields(config):
        if getattr(config, field.name) != field.default:
            raise UserError(f"{flag_name(field.name)} has no meaning {why}")


def _terms(config: ObjectiveConfig) -> list[Term]:
    """The terms whose weight is not 0."""
    terms: list[Term] = []
    if config.centering_weight:
        terms.append(Centering(weight=config.centering_weight))
    if config.score_l2_weight:
        terms.append(ScoreL2(weight=config.score_l2_weight))
    if config.range_penalty_weight:
        low, high = config.score_range
        terms.append(RangePenalty(weight=config.range_penalty_weight, low=low, high=high))
    return terms
