"""What each --stage trains: the head of its model, and the objective that reads it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields

from modellink_rm.base.errors import UserError
from modellink_rm.base.flags import flag_name
from modellink_rm.config.dpo import DpoConfig
from modellink_rm.config.objective import ObjectiveConfig
from modellink_rm.config.run import RunConfig
from modellink_rm.config.training import POLICY_STAGE, PROCESS_STAGE
from modellink_rm.model.spec import LANGUAGE_MODEL_HEAD, REWARD_HEAD, STEP_HEAD
from modellink_rm.objective.choice import choose_objective
from modellink_rm.objective.objective import Objective
from modellink_rm.objective.policy.objective import PolicyObjective


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What a --stage trains.

    Attributes:
        head: that of `ModelSpec`.
        objective: what the flags choose; raises UserError for flags that mean nothing to the stage.
        has_reference: whether the objective reads the log-probabilities of a reference model.
    """

    head: str
    objective: Callable[[RunConfig], Objective]
    has_reference: Callable[[RunConfig], bool] = lambda config: False


def _reward_objective(config: RunConfig) -> Objective:
    _check_defaults(config.dpo, DpoConfig(), stage=config.training.stage, other="--stage dpo")
    return choose_objective(config.training.loss_type, config.objective, stage=config.training.stage)


def _policy_objective(config: RunConfig) -> Objective:
    if config.training.loss_type != "sigmoid":
        raise UserError(
            f"--loss-type {config.training.loss_type} is a loss of reward models; --stage dpo has "
            "--dpo-loss-type"
        )
    given = {
        "--freeze-base": config.training.freeze_base,
        "--train-last-n-layers": config.training.train_last_n_layers is not None,
        "--head-dropout": config.model.head_dropout > 0,
    }
    for flag in (flag for flag, is_given in given.items() if is_given):
        raise UserError(f"{flag} is for reward models: --stage dpo trains every weight of a language model")
    _check_defaults(config.objective, ObjectiveConfig(), stage=config.training.stage, other="--stage rm")
    return PolicyObjective(config=config.dpo)


def _check_defaults(group: object, defaults: object, *, stage: str, other: str) -> None:
    """No flag of a group is given that means nothing to the stage.

    Raises:
        UserError: names the first one.
    """
    for field in fields(defaults):  # type: ignore[arg-type]  # a dataclass
        if getattr(group, field.name) != getattr(defaults, field.name):
            raise UserError(f"{flag_name(field.name)} has no meaning for --stage {stage}; it is for {other}")


_REWARD = Stage(head=REWARD_HEAD, objective=_reward_objective)
STAGES: Mapping[str, Stage] = {
    "rm": _REWARD,
    "orm": _REWARD,
    PROCESS_STAGE: Stage(head=STEP_HEAD, objective=_reward_objective),
    POLICY_STAGE: Stage(
        head=LANGUAGE_MODEL_HEAD,
        objective=_policy_objective,
        has_reference=lambda config: config.dpo.has_reference,
    ),
}
