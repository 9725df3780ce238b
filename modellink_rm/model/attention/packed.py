"""Attention over a packed sequence: a segment sees itself, causally, and its prefix."""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel import gather_from_sequence_parallel_region, get_cuda_rng_tracker
from megatron.core.transformer.module import MegatronModule
from torch import Tensor

from modellink_rm.base.platform import tensor_on
from modellink_rm.batching.batch import Batch
from modellink_rm.experts.balance import Routing
from modellink_rm.model.attention.kernels import ATTENTION_KERNELS, AttentionKernel
from modellink_rm.model.attention.pieces import Piece, held_scores, pieces_of, scored_pieces, with_window
from modellink_rm.model.attention.softmax import Softmax
from modellink_rm.model.config import RewardModelConfig
from modellink_rm.model.layers.divided import DividedVector
from modellink_rm.model.layers.elementwise import (
    compiled,
    rotate,
    rotate_interleaved,
    rotate_to_neighbours,
)
from modellink_rm.model.layers.rotary import RotaryAngles


@dataclass(frozen=True)
class Queries:
    """The kernel and the rotary angles for n queries, in the layers with one window.

    Attributes:
        kernel: attention kernel for the pieces of these queries.
        cos: [n, 1, w], cosine of their rotary angles.
        sin: [n, 1, w].
    """

    kernel: AttentionKernel
    cos: Tensor
    sin: Tensor


@dataclass(frozen=True)
class ScoredRows:
    """The tokens of this process whose hidden states become scores (see `HeldScores`).

    Attributes:
        rows: int64 [n], indices among this process's tokens.
        queries: the kernel and angles of these rows in the last layer.
        slots: int64 [r], index of the row at which each response is scored.
        is_held: bool [r], whether this process holds the response's position.
        held: int64 [k], the numbers of those it holds.
    """

    rows: Tensor
    queries: Queries
    slots: Tensor
    is_held: Tensor
    held: Tensor


@dataclass
class PackedLayout(PackedSeqParams):
    """Which tokens each token of a packed sequence sees; created once for all layers.

    megatron-core's layers pass it on as `packed_seq_params`, and activation recomputation keeps it by
    closure; `qkv_format` stays None, so that the engine takes no `thd` path.

    Attributes:
        tokens: by the layers' window, the kernel and angles of all tokens of this process.
        scored: the scored rows, on the stage that scores.
        routing: where routers record their choices among all tokens, in training a model with experts.
    """

    tokens: Mapping[int | None, Queries] = field(default_factory=dict)
    scored: ScoredRows | None = None
    routing: Routing | None = None


def layout_of(
    batch: Batch,
    rotary: RotaryAngles,
    config: RewardModelConfig,
    *,
    with_scores: bool,
    local_rotary: RotaryAngles | None = None,
    routing: Routing | None = None,
) -> PackedLayout:
    """The layout of a batch.

    Args:
        with_scores: whether this is the stage that scores.
        local_rotary: angles of the layers with a window, if these have their own.
        routing: where routers record their choices, if anywhere.
    """
    device, dtype = batch.input_ids.device, config.params_dtype
    make_kernel = ATTENTION_KERNELS[config.kernels.attention]
    cos, sin = (part.to(dtype) for part in rotary.of_batch(batch))
    local: tuple[Tensor, ...] = (cos, sin)
    if local_rotary is not None:
        local = tuple(part.to(dtype) for part in local_rotary.of_batch(batch))
    pieces = pieces_of(batch.segments, batch.ranges)
    kernels: dict[tuple[Piece, ...], AttentionKernel] = {}  # one for all windows that reach all tokens
    tokens = {}
    for window in dict.fromkeys(config.windows):
        seen = with_window(pieces, window)
        if seen not in kernels:
            kernels[seen] = make_kernel(seen, device, dtype)
        tokens[window] = Queries(kernels[seen], *((cos, sin) if window is None else local))
    if not with_scores:
        return PackedLayout(tokens=tokens, routing=routing)
    held = held_scores(batch.scored_positions, batch.ranges)
    rows = tensor_on(device, np.array(held.rows))
    last = config.windows[-1]
    seen = with_window(scored_pieces(batch.segments, held.positions), last)
    scored = ScoredRows(
        rows=rows,
        queries=Queries(make_kernel(seen, device, dtype), tokens[last].cos[rows], tokens[last].sin[rows]),
        slots=tensor_on(device, np.array(held.slots, dtype=np.int64)),
        is_held=tensor_on(device, np.array(held.is_held, dtype=bool)),
        held=tensor_on(device, np.flatnonzero(held.is_held)),
    )
    return PackedLayout(tokens=tokens, scored=scored, routing=routing)


class PackedAttention(MegatronModule):
    """Rotates queries and keys, and lets each query see its prefix and its segment up to itself.

    Rotation is done here, not before it in the engine's layer, so that cosine and sine are computed once
    for all layers. Under context parallelism the keys and values of all ranks are gathered, and their
    gradients are summed back. megatron-core determines the constructor's arguments.
    """

    def __init__(
        self,
        config: RewardModelConfig,
        layer_number: int,
        attn_mask_type: Any,
        attention_type: str,
        cp_comm_type: str | None = None,
        softmax_scale: float | None = None,
        *,
        pg_collection: ProcessGroupCollection,
    ) -> None:
        super().__init__(config=config)
        self.window = config.windows[layer_number - 1]
        self.dropout = config.attention_dropout
        self.softmax_scale = softmax_scale or config.kv_channels**-0.5
        self.softcap = config.attention_softcap
        self.sequence_parallel = config.sequence_parallel
        self.cp_group = pg_collection.cp
        self.sinks = None
        if config.attention_sinks:
            self.sinks = DividedVector(config, config.num_attention_heads, value=0.0)
        rotation = rotate_interleaved if config.rotary_interleaved else rotate
        self.rotate = compiled(rotation) if config.kernels.compiles_elementwise else rotation
        is_plain = config.kernels.cpu_inference and self.rotate is rotate
        self.rotate_for_inference = rotate_to_neighbours if is_plain else self.rotate

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
        """Attention output [t, 1, heads * head_dim] of this process's t tokens.

        Args:
            query: [t, 1, heads, head_dim], the heads of this tensor-parallel rank.
            key: [t, 1, groups, head_dim].
            value: [t, 1, groups, head_dim].
            attention_mask: None; the layout determines what each token sees.
            packed_seq_params: the layout.
        """
        tokens = packed_seq_params.tokens[self.window]
        return self.attend(query, key, value, tokens, keys=tokens)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, queries: Queries, *, keys: Queries) -> Tensor:
        """Attention output [n, 1, heads * head_dim] of n queries.

        Args:
            query: [n, 1, heads, head_dim].
            key: [t, 1, groups, head_dim].
            value: [t, 1, groups, head_dim].
            queries: kernel and angles of the n queries.
            keys: angles of the t tokens.
        """
        rotated = self.rotate if torch.is_grad_enabled() else self.rotate_for_inference
        query = rotated(query[:, 0], queries.cos, queries.sin)
        key, value = self._gathered(rotated(key[:, 0], keys.cos, keys.sin), value[:, 0])
        dropout = self.dropout if self.training else 0.0
        # Tensor-parallel ranks draw different dropout for their heads; under sequence parallelism the engine
        # already does that.
        draws = get_cuda_rng_tracker().fork() if dropout and not self.sequence_parallel else nullcontext()
        with draws:
            output = queries.kernel(
                query,
                key,
                value,
                Softmax(
                    scale=self.softmax_scale,
                    dropout=dropout,
                    softcap=self.softcap,
                    sinks=None if self.sinks is None else self.sinks.weight,
                ),
            )
        return output.flatten(1)[:, None]

    def _gathered(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of all context-parallel ranks, in the order of the sequence."""
        size = self.cp_group.size()
        if size == 1:
            return key, value
        both = gather_from_sequence_parallel_region(torch.cat((key, value), dim=-1), group=self.cp_group)
        # Each rank holds two slices: see `zigzag_ranges`.
        slices = both.view(size, 2, -1, *both.shape[1:])
        ordered = torch.cat((slices[:, 0], slices[:, 1].flip(0))).flatten(0, 1)
        return ordered[..., : key.shape[-1]], ordered[..., key.shape[-1] :]
