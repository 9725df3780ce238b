"""Rotary angles by position ids, for sequences whose positions start again in every segment."""

import numpy as np
import torch
from torch import Tensor, nn

from modellink_rm.base.platform import tensor_on
from modellink_rm.batching.batch import Batch
from modellink_rm.model.layers.frequencies import frequencies
from modellink_rm.model.shape import ModelShape


class RotaryAngles(nn.Module):
    """Angles of rotary position embedding (Su et al. 2021, arXiv 2104.09864).

    megatron-core's own module computes one row per index of the sequence; this one computes a row per
    position id.
    """

    def __init__(self, shape: ModelShape, device: torch.device | None = None) -> None:
        super().__init__()
        self.shape = shape
        self.attention_factor = 1.0 if shape.rope_scaling is None else shape.rope_scaling.attention_factor
        self.inverse_frequencies: Tensor
        self.register_buffer("inverse_frequencies", self._of_length(1).to(device), persistent=False)

    def forward(self, position_ids: Tensor, rates: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Cosine and sine, each float32 [t, 1, rotary_channels / 2], of position_ids [t].

        Args:
            rates: float32 [t, rotary_channels / 2], each token's frequencies; None for `inverse_frequencies`.
        """
        rates = self.inverse_frequencies if rates is None else rates
        angles = (position_ids.float()[:, None] * rates)[:, None]
        return angles.cos() * self.attention_factor, angles.sin() * self.attention_factor

    def of_batch(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Cosine and sine of a batch's tokens, as `forward`, each sequence with the angles of its length."""
        lengths = [segment.prefix_length + segment.end - segment.start for segment in batch.segments]
        if max(lengths) <= self.shape.longest_with_equal_angles:
            return self.forward(batch.position_ids)
        assert all(segment.prefix is None for segment in batch.segments), "see `shares_prompts`"
        number_of = {length: number for number, length in enumerate(dict.fromkeys(lengths))}
        sizes = [segment.end - segment.start for segment in batch.segments]
        whole = np.repeat([number_of[length] for length in lengths], sizes)
        held = np.concatenate([whole[start:end] for start, end in batch.ranges])
        table = torch.stack([self._of_length(length) for length in number_of]).numpy()
        return self.forward(batch.position_ids, tensor_on(batch.position_ids.device, table[held]))

    def _of_length(self, length: int) -> Tensor:
        shape = self.shape
        return frequencies(shape.rotary_base, shape.rotary_channels, shape.rope_scaling, length=length)
