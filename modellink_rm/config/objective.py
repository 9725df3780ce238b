"""Flags of the objective: the parameters of losses, and the terms that are added to them."""

from dataclasses import dataclass

from modellink_rm.base.errors import UserError
from modellink_rm.base.flags import check_minimums, flag


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """Objective."""

    margin_weight: float = flag(
        1.0,
        minimum=0,
        level="rare",
        help="factor of the margins of the data, which the losses sigmoid, logexp, kwise and scaled use; 0: "
        "no margin is used",
    )
    focal_gamma: float = flag(2.0, minimum=0, level="rare", help="exponent of the loss focal")
    label_smoothing: float = flag(
        0.0, minimum=0, level="rare", help="probability that a label of the data is the wrong way round"
    )
    tie_threshold: float = flag(
        0.0,
        minimum=0,
        level="rare",
        help="train on ties too, by the model of Rao and Kupper with this threshold; 0: they are left out",
    )
    centering_weight: float = flag(
        0.0, minimum=0, level="rare", help="weight of (chosen score + rejected score)^2, such as 0.01"
    )
    score_l2_weight: float = flag(0.0, minimum=0, level="rare", help="weight of the mean squared score")
    range_penalty_weight: float = flag(
        0.0,
        minimum=0,
        level="rare",
        help="weight of InternLM2's logarithmic barrier that keeps scores within --score-range, such as 0.02",
    )
    score_range: tuple[float, ...] = flag(
        (-5.0, 5.0), level="rare", metavar="X", help="lowest and highest score of the range penalty"
    )
    length_penalty_weight: float = flag(
        0.0,
        minimum=0,
        level="rare",
        help="weight of ODIN's penalty on the correlation of scores and lengths in the global batch; a step "
        "computes a forward pass more",
    )

    def __post_init__(self) -> None:
        check_minimums(self)
        if self.label_smoothing >= 0.5:
            raise UserError(
                f"--label-smoothing must be below 0.5, got {self.label_smoothing:g}: from there on it turns "
                "the labels round"
            )
        if len(self.score_range) != 2 or not self.score_range[1] - self.score_range[0] > 0.01:
            given = " ".join(f"{value:g}" for value in self.score_range)
            raise UserError(f"--score-range takes a lowest and a highest score above it, got {given}")
