"""Flags of a run that are given and change nothing, because another flag is not."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields

from modellink_rm.base.flags import flag_name
from modellink_rm.config.run import RunConfig
from modellink_rm.objective.losses.registry import LOSSES, LossType, RankingLossType, RatingLossType


@dataclass(frozen=True, kw_only=True)
class _Rule:
    """Flags that are of use to some runs alone.

    Attributes:
        names: of the flags' fields in the groups of `RunConfig`.
        need: what they are for, in words.
        is_met: whether the run has that.
    """

    names: tuple[str, ...]
    need: str
    is_met: Callable[[RunConfig], bool]


def _uses_margins(config: RunConfig) -> bool:
    """Whether the loss reads margins; one of another package may."""
    loss = LOSSES[config.training.loss_type]
    if isinstance(loss, LossType):
        return loss.uses_margins or loss.needs_margins
    return not isinstance(loss, RankingLossType | RatingLossType)


def _has_warmup(config: RunConfig) -> bool:
    return bool(config.optim.lr_warmup_iters or config.optim.lr_warmup_fraction)


def _decays(config: RunConfig) -> bool:
    return config.optim.lr_decay_style != "constant"


_RULES = (
    _Rule(
        names=("focal_gamma",),
        need="--loss-type focal",
        is_met=lambda config: config.training.loss_type == "focal",
    ),
    _Rule(
        names=("margin_weight",),
        need="--loss-type sigmoid, logexp, kwise and scaled",
        is_met=_uses_margins,
    ),
    _Rule(
        names=("score_range",),
        need="--range-penalty-weight",
        is_met=lambda config: config.objective.range_penalty_weight > 0,
    ),
    _Rule(
        names=("simpo_gamma",),
        need="--dpo-loss-type simpo",
        is_met=lambda config: config.dpo.dpo_loss_type == "simpo",
    ),
    _Rule(
        names=("min_lr",),
        need="--lr-decay-style linear, cosine and WSD",
        is_met=_decays,
    ),
    _Rule(
        names=("lr_decay_iters",),
        need="--lr-decay-style linear, cosine and WSD, and --lr-warmup-fraction",
        is_met=lambda config: _decays(config) or bool(config.optim.lr_warmup_fraction),
    ),
    _Rule(
        names=("lr_warmup_init",),
        need="--lr-warmup-iters and --lr-warmup-fraction",
        is_met=_has_warmup,
    ),
    _Rule(
        names=("recompute_method", "recompute_num_layers"),
        need="--recompute-granularity full",
        is_met=lambda config: config.precision.recompute_granularity == "full",
    ),
    _Rule(
        names=("save_interval",),
        need="--save",
        is_met=lambda config: config.checkpoint.save is not None,
    ),
    _Rule(
        names=("profile_step_start", "profile_step_end", "profile_ranks"),
        need="--profile",
        is_met=lambda config: config.reporting.profile,
    ),
    _Rule(
        names=("wandb_exp_name", "wandb_mode"),
        need="--wandb-project",
        is_met=lambda config: config.reporting.wandb_project is not None,
    ),
    _Rule(
        names=("swanlab_mode",),
        need="--swanlab-project",
        is_met=lambda config: config.reporting.swanlab_project is not None,
    ),
)


def flags_without_effect(config: RunConfig) -> Iterator[str]:
    """A line for each flag that is given and that this run does not use.

    Args:
        config: whose --loss-type is known.
    """
    groups = [getattr(config, group.name) for group in fields(config)]
    given = [
        field.name
        for group in groups
        for field in fields(group)
        if getattr(group, field.name) != field.default
    ]
    for rule in _RULES:
        if not rule.is_met(config):
            for name in (name for name in given if name in rule.names):
                yield f"{flag_name(name)} has no effect here: it is for {rule.need}"
