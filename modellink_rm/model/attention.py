"""Attention over a packed sequence: a segment sees itself, causally, and its prefix."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.tensor_parallel import get_cuda_rng_tracker
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from modellink_rm.data.batch import Segment


@dataclass
class PackedLayout(PackedSeqParams):
    """Where the segments of a flat sequence lie.

    It travels through megatron-core's layers in `packed_seq_params`, by closure through activation
    recompute; `qkv_format` stays None, so that no `thd` path of the engine is taken.

    Attributes:
        segments: in order, covering the sequence.
        masks: for a segment with a prefix, bool [length, prefix + length], True where a token sees;
            None for the others. Made once for all layers.
    """

    segments: tuple[Segment, ...] = ()
    masks: list[Tensor | None] = field(default_factory=list)


def layout_of(segments: Sequence[Segment], device: torch.device) -> PackedLayout:
    """The layout of a batch's segments, its masks on `device`."""
    return PackedLayout(
        segments=tuple(segments), masks=[_prefix_mask(segment, device) for segment in segments]
    )


def _prefix_mask(segment: Segment, device: torch.device) -> Tensor | None:
    if segment.prefix is None:
        return None
    length, prefix = segment.end - segment.start, segment.prefix[1] - segment.prefix[0]
    return torch.ones(length, prefix + length, dtype=torch.bool, device=device).tril(prefix)


class PackedAttention(torch.nn.Module):
    """Causal attention within each segment and to its prefix, by torch's scaled dot product.

    Nothing of size t x t is made. The constructor's arguments are those that megatron-core gives
    to a core attention.
    """

    def __init__(
        self,
        config: TransformerConfig,
        layer_number: int,
        attn_mask_type: Any,
        attention_type: str,
        cp_comm_type: str | None = None,
        softmax_scale: float | None = None,
        pg_collection: Any = None,
    ) -> None:
        super().__init__()
        assert config.context_parallel_size == 1, "PackedAttention holds whole segments"
        self.dropout = config.attention_dropout
        self.softmax_scale = softmax_scale

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        *,
        packed_seq_params: PackedLayout,
        attn_mask_type: Any = None,
        attention_bias: Tensor | None = None,
    ) -> Tensor:
        """Attention output [t, 1, heads * head_dim].

        Args:
            query: [t, 1, heads, head_dim], the heads of this tensor-parallel rank.
            key: [t, 1, groups, head_dim].
            value: [t, 1, groups, head_dim].
            attention_mask: None; the layout says what is seen.
            packed_seq_params: the layout.
        """
        # [t, 1, heads, head_dim] -> [1, heads, t, head_dim]
        query, key, value = (tensor.permute(1, 2, 0, 3) for tensor in (query, key, value))
        dropout = self.dropout if self.training else 0.0
        if dropout:
            with get_cuda_rng_tracker().fork():
                outputs = self._attend(query, key, value, packed_seq_params, dropout)
        else:
            outputs = self._attend(query, key, value, packed_seq_params, dropout)
        return torch.cat(outputs, dim=2).permute(2, 0, 1, 3).flatten(2)

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, layout: PackedLayout, dropout: float
    ) -> list[Tensor]:
        """Output of each segment [1, heads, length, head_dim]."""
        return [
            scaled_dot_product_attention(
                query[:, :, segment.start : segment.end],
                _seen(key, segment),
                _seen(value, segment),
                attn_mask=mask,
                dropout_p=dropout,
                is_causal=mask is None,
                scale=self.softmax_scale,
                enable_gqa=True,
            )
            for segment, mask in zip(layout.segments, layout.masks, strict=True)
        ]


def _seen(tensor: Tensor, segment: Segment) -> Tensor:
    """The keys or values [1, groups, prefix + length, head_dim] that a segment sees."""
    own = tensor[:, :, segment.start : segment.end]
    if segment.prefix is None:
        return own
    start, end = segment.prefix
    return torch.cat((tensor[:, :, start:end], own), dim=2)
