"""Flags that trade numbers and time for memory."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from modellink_rm.base.flags import check_minimums, flag

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class PrecisionConfig:
    """Precision and memory.

    Without --bf16 everything is float32. The reward head and its scores are always float32.
    """

    bf16: bool = flag(False, help="weights and activations in bfloat16, optimizer state in float32")
    recompute_granularity: str | None = flag(
        None,
        help="recompute activations in the backward pass: whole layers, or attention alone",
        choices=("full", "selective"),
    )
    recompute_method: str = flag(
        "uniform", level="rare", help="which layers are recomputed", choices=("uniform", "block")
    )
    recompute_num_layers: int = flag(
        1,
        minimum=1,
        level="rare",
        help="layers per recomputed group (uniform), or number of recomputed layers (block)",
    )

    gradient_accumulation_fusion: bool = flag(
        True,
        level="rare",
        help="do not use apex's fused accumulation of weight gradients, even if apex is installed",
    )

    def __post_init__(self) -> None:
        check_minimums(self)

    @property
    def dtype(self) -> "torch.dtype":
        """The dtype of weights and activations, except the head's."""
        import torch  # parsing flags does without it

        return torch.bfloat16 if self.bf16 else torch.float32
