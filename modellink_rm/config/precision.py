"""Flags that trade numbers and time for memory."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from modellink_rm.base.errors import UserError
from modellink_rm.base.flags import check_minimums, flag
from modellink_rm.base.registry import unknown_name_message

# Values of --recompute-modules, as in Megatron-LM, which has mlp_act for experts only (moe_act).
RECOMPUTES_NORMS = "layernorm"
RECOMPUTES_GATES = ("mlp_act", "moe_act")
RECOMPUTED_BY_ENGINE = ("core_attn", "mlp")

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
        help="recompute activations in the backward pass: whole layers, or the outputs of some modules",
        choices=("full", "selective"),
    )
    recompute_modules: tuple[str, ...] = flag(
        (),
        level="rare",
        metavar="MODULE",
        help="with selective: layernorm, norms, and mlp_act, the gate of MLPs and experts (both by default); "
        "mlp, the whole MLP; core_attn, attention without its projections",
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
        help="on a GPU, round weight gradients before they are added up in float32",
    )

    def __post_init__(self) -> None:
        check_minimums(self)
        if self.recompute_modules and self.recompute_granularity != "selective":
            raise UserError("--recompute-modules needs --recompute-granularity selective")
        known = (RECOMPUTES_NORMS, *RECOMPUTES_GATES, *RECOMPUTED_BY_ENGINE)
        for name in self.recompute_modules:
            if name not in known:
                raise UserError(unknown_name_message("--recompute-modules", name, known))

    @property
    def recomputed_modules(self) -> frozenset[str]:
        """What --recompute-granularity selective recomputes; nothing without it."""
        if self.recompute_granularity != "selective":
            return frozenset()
        return frozenset(self.recompute_modules or (RECOMPUTES_NORMS, RECOMPUTES_GATES[0]))

    @property
    def dtype(self) -> "torch.dtype":
        """The dtype of weights and activations, except the head's."""
        import torch  # parsing flags does without it

        return torch.bfloat16 if self.bf16 else torch.float32
