"""Rotary angles by position ids, for sequences whose positions start again in every segment."""

import torch
from torch import Tensor, nn

from modellink_rm.model.shape import ModelShape


class RotaryAngles(nn.Module):
    """Angles of rotary position embedding (Su et al. 2021, arXiv 2104.09864).

    megatron-core's own module computes one row per index of the sequence; this one computes a row per
    position id.
    """

    def __init__(self, shape: ModelShape, device: torch.device | None = None) -> None:
        super().__init__()
        width = int(shape.kv_channels * shape.rotary_percent)
        exponents = torch.arange(0, width, 2, dtype=torch.float32, device=device) / width
        self.inverse_frequencies: Tensor
        self.register_buffer("inverse_frequencies", 1.0 / shape.rotary_base**exponents, persistent=False)

    def forward(self, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine, each float32 [t, 1, kv_channels * rotary_percent / 2], of position_ids [t]."""
        angles = torch.outer(position_ids.float(), self.inverse_frequencies)[:, None]
        return angles.cos(), angles.sin()
