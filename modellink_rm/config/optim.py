"""Flags of the optimizer and its schedule."""

from dataclasses import dataclass

from modellink_rm.base.errors import UserError
from modellink_rm.base.flags import check_minimums, flag
from modellink_rm.config.precision import PrecisionConfig


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Optimizer.

    AdamW; the schedule counts samples as Megatron-LM's does.
    """

    lr: float = flag(1e-5, help="largest learning rate")
    min_lr: float = flag(0.0, help="smallest learning rate of a decaying schedule")
    lr_decay_style: str = flag(
        "constant",
        help="how the learning rate changes after warmup",
        choices=("constant", "linear", "cosine", "WSD"),
    )
    lr_wsd_decay_style: str = flag(
        "exponential",
        level="rare",
        help="how WSD (warmup, stable, decay) decays at its end",
        choices=("exponential", "linear", "cosine", "minus_sqrt"),
    )
    lr_wsd_decay_iters: int | None = flag(
        None,
        minimum=1,
        level="rare",
        help="steps of the decay at the end of WSD; by default a tenth of the schedule",
    )
    lr_decay_iters: int | None = flag(
        None, minimum=1, level="rare", help="steps until the learning rate is --min-lr; by default all steps"
    )
    lr_warmup_fraction: float | None = flag(None, help="warmup, as a share of the decay steps")
    lr_warmup_iters: int = flag(0, minimum=0, help="warmup, in steps")
    lr_warmup_init: float = flag(0.0, level="rare", help="learning rate at the start of warmup")
    weight_decay: float = flag(0.0, minimum=0, help="decoupled weight decay, not on norms and biases")
    adam_beta1: float = flag(0.9, level="rare", help="decay of the first moment")
    adam_beta2: float = flag(0.999, level="rare", help="decay of the second moment")
    adam_eps: float = flag(1e-8, level="rare", help="added to the root of the second moment")
    clip_grad: float = flag(1.0, minimum=0, help="clip the gradient's norm to this; 0 does not clip")
    use_distributed_optimizer: bool = flag(
        False, help="divide the optimizer's state over the data-parallel processes"
    )
    overlap: bool = flag(
        True,
        level="rare",
        help="on GPUs, reduce no gradients and gather no weights while others are computed",
    )
    overlap_grad_reduce: bool = flag(
        False, level="rare", help="reduce gradients while the backward pass runs; on GPUs by default"
    )
    overlap_param_gather: bool = flag(
        False,
        level="rare",
        help="gather updated weights while the forward pass runs (distributed optimizer); on GPUs by default",
    )

    def __post_init__(self) -> None:
        check_minimums(self)
        if not 0 <= self.min_lr <= self.lr:
            raise UserError(f"--min-lr must lie between 0 and --lr {self.lr}, got {self.min_lr}")
        if self.lr_warmup_fraction is not None and not 0 <= self.lr_warmup_fraction < 1:
            raise UserError(f"--lr-warmup-fraction must lie in [0, 1), got {self.lr_warmup_fraction}")
        if self.lr_warmup_fraction is not None and self.lr_warmup_iters:
            raise UserError("--lr-warmup-fraction and --lr-warmup-iters exclude each other: give one")
        if not 0 <= self.lr_warmup_init <= self.lr:
            raise UserError(
                f"--lr-warmup-init must lie between 0 and --lr {self.lr}, got {self.lr_warmup_init}"
            )
        if self.lr_decay_style != "WSD":
            self._check_without_wsd()
        if self.adam_eps <= 0:
            raise UserError(f"--adam-eps must be above 0, got {self.adam_eps}")
        for name in ("adam_beta1", "adam_beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} must lie in [0, 1), got {getattr(self, name)}")
        if self.overlap_param_gather and not self.use_distributed_optimizer:
            raise UserError("--overlap-param-gather needs --use-distributed-optimizer")
        if self.overlap_param_gather and not self.overlap_grad_reduce:
            raise UserError("--overlap-param-gather needs --overlap-grad-reduce")

    def _check_without_wsd(self) -> None:
        """No flag of WSD is given.

        Raises:
            UserError: one is.
        """
        given = {
            "--lr-wsd-decay-iters": self.lr_wsd_decay_iters is not None,
            "--lr-wsd-decay-style": self.lr_wsd_decay_style != "exponential",
        }
        for name in (name for name, is_given in given.items() if is_given):
            raise UserError(
                f"{name} needs --lr-decay-style WSD, got {self.lr_decay_style}: the others decay from warmup "
                "to --lr-decay-iters"
            )

    def divides_state(self, precision: PrecisionConfig) -> bool:
        """Whether the engine's distributed optimizer is used: if requested, and always with --bf16.

        The engine's other optimizer for bfloat16 cannot save a model with a float32 part, and the head is
        one; with a single replica the distributed optimizer does the same work.
        """
        return self.use_distributed_optimizer or precision.bf16

    def schedule(self, num_samples: int, batch_size: int) -> tuple[int, int]:
        """(warmup, decay) in samples, of a run over `num_samples`.

        Raises:
            UserError: warmup is not shorter than the schedule.
        """
        decay = self.lr_decay_iters * batch_size if self.lr_decay_iters else num_samples
        warmup = self.lr_warmup_iters * batch_size
        if self.lr_warmup_fraction is not None:
            warmup = int(self.lr_warmup_fraction * decay)
        if warmup >= decay:
            raise UserError(
                f"warmup must be shorter than the schedule: --lr-warmup-iters {self.lr_warmup_iters} of "
                f"{decay // batch_size} steps"
            )
        return warmup, decay

    def wsd_decay(self, schedule: tuple[int, int], batch_size: int) -> int:
        """Samples of the decay at the end of a WSD schedule.

        Args:
            schedule: (warmup, decay) in samples.

        Raises:
            UserError: the decay begins within warmup.
        """
        warmup, end = schedule
        if self.lr_wsd_decay_iters is None:
            return max(1, min(end // 10, end - warmup))
        length = self.lr_wsd_decay_iters * batch_size
        if length > end - warmup:
            raise UserError(
                f"--lr-wsd-decay-iters {self.lr_wsd_decay_iters} must fit between the warmup and the end of "
                f"the schedule: {(end - warmup) // batch_size} steps"
            )
        return length
