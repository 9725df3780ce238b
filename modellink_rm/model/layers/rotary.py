"""Rotary angles by position ids, for sequences whose positions start again in every segment."""

import torch
from torch import Tensor, nn

from modellink_rm.model.layers.frequencies import frequencies
from modellink_rm.model.shape import ModelShape


class RotaryAngles(nn.Module):
    """Angles of rotary position embedding (Su et al. 2021, arXiv 2104.09864).

    megatron-core's own module computes one row per index of the sequence; this one computes a row per
    position id.
    """

    def __init__(self, shape: ModelShape, device: torch.device | None = None) -> None:
        super().__init__()
        scaling = shape.rope_scaling
        rates = frequencies(shape.rotary_base, shape.rotary_channels, scaling)
        self.inverse_frequencies: Tensor
        self.register_buffer("inverse_frequencies", rates.to(device), persistent=False)
        self.attention_factor = 1.0 if scaling is None else scaling.attention_factor

    def forward(self, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine, each float32 [t, 1, rotary_channels / 2], of position_ids [t]."""
        angles = torch.outer(position_ids.float(), self.inverse_frequencies)[:, None]
        return angles.cos() * self.attention_factor, angles.sin() * self.attention_factor
