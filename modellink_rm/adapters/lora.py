"""The description of a model's adapters."""

import math
from dataclasses import dataclass
from typing import Literal

from modellink_rm.base.errors import UserError

ADAPTER = "adapter"
_MOST_RANKS = 2**31
# Of the scaling, which multiplies float32 numbers: smaller ones are 0 there, larger ones infinite.
_SMALLEST, _LARGEST = 2.0**-126, 2.0**127
# Within the name of a parameter of the engine's; "a" or "b" follows.
ADAPTER_INFIX = f".{ADAPTER}."


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Low-rank updates of a frozen model's matrices (Hu et al. 2021, arXiv 2106.09685).

    A matrix W [out, in] becomes W + scaling * B A, with A [r, in] and B [out, r]; each expert has its own.

    Attributes:
        rank: r.
        alpha: the scaling is alpha / r.
        targets: the matrices that have one, as the family stores them: names within a layer, sorted, such as
            "self_attn.q_proj"; of experts as transformers has them, "mlp.experts.down_proj".
        dropout: of the input of A, in training.
        use_rslora: the scaling is alpha / sqrt(r) (Kalajdzievski 2023, arXiv 2312.03732).
        quantization: how the layers' own matrices are held; "" as they were trained.
    """

    rank: int
    alpha: float
    targets: tuple[str, ...]
    dropout: float = 0.0
    use_rslora: bool = False
    quantization: Literal["", "nf4"] = ""

    def __post_init__(self) -> None:
        """Refuse adapters that cannot be built.

        Raises:
            UserError: a rank below 1, no target, or a number out of range.
        """
        if not 1 <= self.rank < _MOST_RANKS or not self.targets:
            raise UserError(f"adapters need a rank from 1 and a target, got {self.rank} and {self.targets}")
        if not 0 < self.alpha < float("inf") or not 0 <= self.dropout < 1:
            raise UserError(
                f"adapters need an alpha above 0 and a dropout in [0, 1), got {self.alpha} and {self.dropout}"
            )
        if not _SMALLEST <= self.scaling <= _LARGEST:
            raise UserError(
                f"adapters of rank {self.rank} and alpha {self.alpha:g} have the scaling {self.scaling:g}, "
                "which float32 does not hold: give another alpha"
            )

    @property
    def scaling(self) -> float:
        """The factor of B A."""
        return self.alpha / (math.sqrt(self.rank) if self.use_rslora else self.rank)

    def __str__(self) -> str:
        scale = f"{self.alpha:g} / {'sqrt(r)' if self.use_rslora else 'r'}"
        held = ", the model itself in 4 bits" if self.quantization else ""
        return f"rank {self.rank}, scaling {scale}, on {' '.join(self.targets)}{held}"


def is_of_adapter(name: str) -> bool:
    """Whether a parameter of that name is of an adapter."""
    return ADAPTER_INFIX in name
