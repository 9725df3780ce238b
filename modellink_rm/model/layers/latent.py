"""Latent attention: keys and values of all heads from one small vector of each token.

DeepSeek-V2 (arXiv 2405.04434, section 2.1). megatron-core 0.16.1 has it too, but rotates by the index in the
sequence; this one leaves rotation and pieces to the attention of the other families.
"""

from collections.abc import Callable
from typing import Any

from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel import (
    checkpoint,
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
)
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.module import MegatronModule
from torch import Tensor, cat, nn
from torch.nn import functional

from modellink_rm.adapters.linears import ColumnLinear
from modellink_rm.experts.modules import WholeWeight
from modellink_rm.model.attention.packed import PackedLayout, Queries
from modellink_rm.model.config import RewardModelConfig
from modellink_rm.model.latent_shape import LatentShape
from modellink_rm.model.layers.linears import Linears
from modellink_rm.model.layers.norm import RMSNorm


class Latents(nn.Module):
    """The small vector of each token, normed, and further channels that are not normed.

    Its weights are whole on every rank.
    """

    def __init__(self, config: RewardModelConfig, rank: int, *, num_further: int = 0, eps: float) -> None:
        super().__init__()
        self.rank = rank
        self.down = WholeWeight(config, num_outputs=rank + num_further)
        self.norm = RMSNorm(config, hidden_size=rank, eps=eps)

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, Tensor]:
        """The vectors [t, 1, rank] and the further channels [t, 1, num_further] of [t, 1, h]."""
        both = functional.linear(hidden_states, self.down.weight)
        return self.norm(both[..., : self.rank]), both[..., self.rank :]

    def take_whole_rows(self) -> None:
        """Under sequence parallelism too, the rows will be whole on every tensor-parallel rank."""
        self.down.mark_divided_rows(False)
        self.norm.weight.sequence_parallel = False  # type: ignore[attr-defined]


class LatentAttention(MegatronModule):
    """Attention of all tokens, in place of the engine's in its layer."""

    def __init__(
        self,
        config: RewardModelConfig,
        layer_number: int,
        *,
        shape: LatentShape,
        linears: Linears,
        core_attention: Callable[..., nn.Module],
        pg_collection: ProcessGroupCollection,
        cp_comm_type: str | None = None,
    ) -> None:
        """Latent attention of one layer.

        Args:
            layer_number: from 1.
            core_attention: rotates queries and keys, and attends.
        """
        super().__init__(config=config)
        self.shape = shape
        self.tp_group = pg_collection.tp
        self.recomputes = (
            config.recompute_granularity == "selective" and "core_attn" in config.recompute_modules
        )
        eps, heads = shape.norm_epsilon, config.num_attention_heads

        def column(num_inputs: int, num_outputs: int) -> ColumnLinear:
            return linears.column(
                num_inputs,
                num_outputs,
                config=config,
                init_method=config.init_method,
                bias=False,
                gather_output=False,
                tp_group=pg_collection.tp,
            )

        self.query_latents = None if shape.query_rank is None else Latents(config, shape.query_rank, eps=eps)
        self.linear_q = column(shape.query_rank or config.hidden_size, heads * shape.head_channels)
        self.latents = Latents(config, shape.key_value_rank, num_further=shape.rotary_channels, eps=eps)
        self.linear_kv = column(shape.key_value_rank, heads * (shape.plain_channels + shape.value_channels))
        self.core_attention: Any = core_attention(
            config=config,
            layer_number=layer_number,
            attn_mask_type=AttnMaskType.causal,
            attention_type="self",
            softmax_scale=config.softmax_scale,
            pg_collection=pg_collection,
        )
        self.linear_proj = linears.row(
            heads * shape.value_channels,
            config.hidden_size,
            config=config,
            init_method=config.output_layer_init_method,
            bias=False,
            input_is_parallel=True,
            skip_bias_add=True,
            tp_group=pg_collection.tp,
        )

    def forward(
        self, hidden_states: Tensor, *, packed_seq_params: PackedLayout, **unused: Any
    ) -> tuple[Tensor, Tensor | None]:
        """The output, with the shape of hidden_states [t, 1, h] or [t/tp, 1, h], and None for the bias."""
        tokens = packed_seq_params.tokens[self.core_attention.window]

        def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            return self._attend(query, key, value, tokens, keys=tokens)

        inputs = (self._queries(hidden_states), *self._keys_and_values(hidden_states))
        recomputes = self.recomputes and self.training
        output = checkpoint(attend, False, *inputs) if recomputes else attend(*inputs)
        result: tuple[Tensor, Tensor | None] = self.linear_proj(output)
        return result

    def _queries(self, hidden_states: Tensor) -> Tensor:
        """[t, 1, heads, head_channels], the rotated channels first."""
        if self.query_latents is not None:
            hidden_states, _ = self.query_latents(hidden_states)
        queries: Tensor = self.linear_q(hidden_states)[0]
        return queries.view(*queries.shape[:2], -1, self.shape.head_channels)

    def _keys_and_values(self, hidden_states: Tensor) -> tuple[Tensor, Tensor]:
        """Keys, as queries, and values [t, 1, heads, value_channels] of this rank's heads."""
        shape = self.shape
        latents, rotated = self.latents(hidden_states)
        # Each rank's heads give a part of the gradient of the channels that all heads share.
        if self.config.sequence_parallel:
            rotated = gather_from_sequence_parallel_region(rotated, group=self.tp_group)
        else:
            rotated = copy_to_tensor_model_parallel_region(rotated, group=self.tp_group)
        both: Tensor = self.linear_kv(latents)[0]
        both = both.view(*both.shape[:2], -1, shape.plain_channels + shape.value_channels)
        plain, value = both[..., : shape.plain_channels], both[..., shape.plain_channels :]
        shared = rotated[:, :, None].expand(*plain.shape[:-1], -1)
        return cat((shared, plain), dim=-1), value

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, queries: Queries, *, keys: Queries
    ) -> Tensor:
        """Output [n, 1, heads * value_channels] of n queries; kernels want heads of one size."""
        width = max(key.shape[-1], value.shape[-1])
        padded = (functional.pad(states, (0, width - states.shape[-1])) for states in (query, key, value))
        output: Tensor = self.core_attention.attend(*padded, queries, keys=keys)
        return output.view(*output.shape[:2], -1, width)[..., : self.shape.value_channels].flatten(2)


class ScoredRowsLatentAttention(LatentAttention):
    """Latent attention with the keys and values of all tokens and the queries of the scored rows."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.linear_q.sequence_parallel = False
        self.linear_q.allreduce_dgrad = self.tp_group.size() > 1
        if self.query_latents is not None:
            self.query_latents.take_whole_rows()

    def forward(  # type: ignore[override]
        self, hidden_states: Tensor, rows: Tensor, packed_seq_params: PackedLayout
    ) -> tuple[Tensor, Tensor | None]:
        """The output [n, 1, h], and None for the bias.

        Args:
            hidden_states: of all tokens, after the norm, [t, 1, h] or [t/tp, 1, h].
            rows: hidden states of the scored rows, after the norm, [n, 1, h].
            packed_seq_params: the layout.
        """
        tokens, scored = packed_seq_params.tokens[self.core_attention.window], packed_seq_params.scored
        assert scored is not None
        key, value = self._keys_and_values(hidden_states)
        output = self._attend(self._queries(rows), key, value, scored.queries, keys=tokens)
        result: tuple[Tensor, Tensor | None] = self.linear_proj(output)
        return result
