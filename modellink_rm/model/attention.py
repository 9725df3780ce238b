"""Attention over a packed sequence: each segment sees itself alone, causally."""

import itertools
from dataclasses import dataclass
from typing import Any

import torch
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.tensor_parallel import get_cuda_rng_tracker
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


@dataclass
class PackedLayout(PackedSeqParams):
    """Where the segments of a flat sequence lie.

    It travels through megatron-core's layers in `packed_seq_params`, by closure through activation
    recompute; `qkv_format` stays None, so that no `thd` path of the engine is taken.

    Attributes:
        segment_starts: first token of each segment, and the number of tokens at the end.
    """

    segment_starts: tuple[int, ...] = ()


class PackedAttention(torch.nn.Module):
    """Causal attention within each segment, by torch's scaled dot product, segment after segment.

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
        starts = packed_seq_params.segment_starts
        lengths = [end - start for start, end in itertools.pairwise(starts)]
        # [t, 1, heads, head_dim] -> [1, heads, t, head_dim], each cut into segments
        segments = [tensor.permute(1, 2, 0, 3).split(lengths, dim=2) for tensor in (query, key, value)]
        dropout = self.dropout if self.training else 0.0
        if dropout:
            with get_cuda_rng_tracker().fork():
                outputs = self._attend(segments, dropout)
        else:
            outputs = self._attend(segments, dropout)
        return torch.cat(outputs, dim=2).permute(2, 0, 1, 3).flatten(2)

    def _attend(self, segments: list[tuple[Tensor, ...]], dropout: float) -> list[Tensor]:
        return [
            scaled_dot_product_attention(
                query,
                key,
                value,
                dropout_p=dropout,
                is_causal=True,
                scale=self.softmax_scale,
                enable_gqa=True,
            )
            for query, key, value in zip(*segments, strict=True)
        ]
