"""Flags of --stage dpo: the loss of a policy on preferences, and its reference."""

from dataclasses import dataclass

from modellink_rm.base.errors import UserError
from modellink_rm.base.flags import check_minimums, flag

WITH_REFERENCE = ("sigmoid", "hinge", "ipo", "robust")
WITHOUT_REFERENCE = ("simpo", "orpo")
_SMOOTHED = ("sigmoid", "robust")


@dataclass(frozen=True, kw_only=True)
class DpoConfig:
    """Direct preference optimization, with --stage dpo."""

    dpo_loss_type: str = flag(
        "sigmoid",
        choices=WITH_REFERENCE + WITHOUT_REFERENCE,
        help="loss of a pair; simpo and orpo have no reference model",
    )
    dpo_beta: float = flag(
        0.1, above=0, help="scale of implicit rewards; of ipo its regularization, of orpo the odds' weight"
    )
    dpo_label_smoothing: float = flag(
        0.0,
        minimum=0,
        help="probability that a label of the data is the wrong way round, of sigmoid and robust",
    )
    pref_ftx: float = flag(
        0.0, minimum=0, help="weight of the chosen answer's negative log-likelihood, a token, beside the loss"
    )
    simpo_gamma: float = flag(0.5, minimum=0, level="rare", help="margin of the rewards of simpo")
    reference_load: str | None = flag(
        None,
        help="reference model, a Hugging Face directory or a checkpoint of this stage; by default that of "
        "--load",
        metavar="DIR",
    )

    def __post_init__(self) -> None:
        check_minimums(self)
        if self.dpo_label_smoothing >= 0.5:
            raise UserError(
                f"--dpo-label-smoothing must be below 0.5, got {self.dpo_label_smoothing:g}: from there on "
                "it turns the labels round"
            )
        if self.dpo_label_smoothing and self.dpo_loss_type not in _SMOOTHED:
            raise UserError(
                f"--dpo-label-smoothing has no meaning for --dpo-loss-type {self.dpo_loss_type}; only "
                f"{' and '.join(_SMOOTHED)} take it"
            )
        if self.reference_load is not None and not self.has_reference:
            raise UserError(
                f"--reference-load has no meaning for --dpo-loss-type {self.dpo_loss_type}, which has no "
                "reference model; leave it out"
            )

    @property
    def has_reference(self) -> bool:
        """Whether the loss compares the policy with a reference model."""
        return self.dpo_loss_type in WITH_REFERENCE
