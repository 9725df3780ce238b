"""The model's last layer, computed for scored tokens only.

A reward is read at the last token of each response, and only the head follows the last layer: of the other
tokens it needs keys and values, but no query, attention output or MLP.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from megatron.core.tensor_parallel import get_cuda_rng_tracker, reduce_from_tensor_model_parallel_region
from megatron.core.tensor_parallel.random import get_data_parallel_rng_tracker_name
from megatron.core.transformer.attention import SelfAttention
from megatron.core.transformer.transformer_layer import TransformerLayer
from torch import Tensor

from modellink_rm.adapters.linears import ColumnLinear, own_weight
from modellink_rm.adapters.nf4 import NF4Weight
from modellink_rm.base.megatron_compat import linear_forward, mlp_and_residual
from modellink_rm.experts.mlp import give_routing, take_whole_rows
from modellink_rm.model.attention.packed import PackedLayout


class ScoredRowsLayer(TransformerLayer):
    """Hidden states [n, 1, h] of the layout's n scored rows, from those of all tokens.

    Under sequence parallelism the rows are gathered to every tensor-parallel rank. From there on everything
    is replicated, so neither the linears nor the norm may be treated as divided.
    """

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        for module in (self.pre_mlp_layernorm, self.self_attn_bda, self.mlp_bda):
            if isinstance(module, torch.nn.Module):  # and not a function without weights
                for weight in module.parameters():
                    weight.sequence_parallel = False  # type: ignore[attr-defined]
        projection = self.self_attention.linear_proj
        projection.sequence_parallel = False
        if projection.bias is not None:
            projection.bias.sequence_parallel = False
        take_whole_rows(self.mlp)

    def forward(
        self, hidden_states: Tensor, *, packed_seq_params: PackedLayout, **unused: Any
    ) -> tuple[Tensor, None]:
        """Hidden states [n, 1, h], equal on every tensor-parallel rank, and None for the engine's `context`.

        Args:
            hidden_states: [t, 1, h], or [t/tp, 1, h] under sequence parallelism.
            packed_seq_params: the layout, with its scored rows.
        """
        assert packed_seq_params.scored is not None
        normed = self.input_layernorm(hidden_states)
        whole_rows = packed_seq_params.scored.rows
        if self.config.sequence_parallel:  # one exchange
            both = rows_of(self, torch.cat((hidden_states, normed), dim=-1), whole_rows)
            rows, normed_rows = both.chunk(2, dim=-1)
        else:
            rows, normed_rows = hidden_states[whole_rows], normed[whole_rows]
        output = self.self_attention(normed, normed_rows, packed_seq_params)
        give_routing(self.mlp, packed_seq_params.routing, whole_rows)
        with self._equal_draws():
            rows = self.self_attn_bda(self.training, self.config.bias_dropout_fusion)(
                output, rows, self.hidden_dropout
            )
            return mlp_and_residual(self, rows), None

    def _equal_draws(self) -> AbstractContextManager[None]:
        """Dropout with the same mask on every tensor-parallel rank, because the rows are replicated."""
        if not (self.training and self.hidden_dropout):
            return nullcontext()
        fork: AbstractContextManager[None] = get_cuda_rng_tracker().fork(get_data_parallel_rng_tracker_name())
        return fork


def rows_of(layer: TransformerLayer, states: Tensor, rows: Tensor) -> Tensor:
    """The states at the rows, [n, 1, ...], whole on every tensor-parallel rank.

    Args:
        states: [t, 1, ...], or [t/tp, 1, ...] under sequence parallelism.
    """
    if not layer.config.sequence_parallel:
        return states[rows]
    # Each rank holds a part of the tokens: it contributes its own rows and zeros for the others, and
    # all ranks get the sum. The sum's backward is the identity, so each rank's own rows get the whole
    # gradient, once.
    num_local = states.shape[0]
    local = rows - layer.tp_group.rank() * num_local
    is_here = (local >= 0) & (local < num_local)
    found = states[local.clamp(0, num_local - 1)].masked_fill(~is_here[:, None, None], 0.0)
    whole: Tensor = reduce_from_tensor_model_parallel_region(found, group=layer.tp_group)
    return whole


class ScoredRowsAttention(SelfAttention):
    """Self-attention with the keys and values of all tokens and the queries of the scored rows."""

    def forward(
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
        if self.config.num_query_groups < self.world_size:
            # Several ranks share a key/value head, so no rank has separate rows of the weight for keys
            # and values: the queries of all tokens are computed, and normed.
            query, key, value = self.get_query_key_value_tensors(hidden_states)
            query = query[scored.rows]
        else:
            query, key, value = self.linear_qkv(hidden_states, rows)
            query = query if self.q_layernorm is None else self.q_layernorm(query)
            key = key if self.k_layernorm is None else self.k_layernorm(key)
        output = self.core_attention.attend(query, key, value, scored.queries, keys=tokens)
        result: tuple[Tensor, Tensor | None] = self.linear_proj(output)
        return result


class RowQueriesLinear(ColumnLinear):
    """The projection to queries, keys and values, optionally with the queries of some rows only."""

    def forward(self, hidden_states: Tensor, rows: Tensor | None = None) -> Any:
        """Query [n, 1, heads, d], key [t, 1, groups, d] and value [t, 1, groups, d] of this rank's heads.

        Without `rows` this is the engine's own forward.

        Args:
            hidden_states: [t, 1, h] or [t/tp, 1, h].
            rows: [n, 1, h], whole on every tensor-parallel rank.
        """
        if rows is None:
            return super().forward(hidden_states)
        config = self.config
        queries_per_group = config.num_attention_heads // config.num_query_groups
        query = self._projected(rows, slice(0, queries_per_group), sequence_parallel=False)
        both = self._projected(
            hidden_states, slice(queries_per_group, None), sequence_parallel=self.sequence_parallel
        )
        both = both.view(*both.shape[:2], -1, 2, config.kv_channels)
        return query.view(*query.shape[:2], -1, config.kv_channels), both[..., 0, :], both[..., 1, :]

    def _projected(self, states: Tensor, heads: slice, *, sequence_parallel: bool) -> Tensor:
        """The projection of states to some heads of each group.

        Args:
            states: [t, 1, h], or [t/tp, 1, h] under sequence parallelism.
        """
        bias = None if self.bias is None else self._of_heads(self.bias, heads)
        weight = own_weight(self, states)
        if weight is not None:
            part = (
                weight.rows(heads, self._by_head)
                if isinstance(weight, NF4Weight)
                else self._of_heads(weight, heads)
            )
            output = self.product(states, part, has_divided_rows=sequence_parallel)
            output = output if bias is None else output + bias
        else:
            output = linear_forward(
                self,
                states,
                self._of_heads(self.weight, heads),
                bias=bias,
                gradient_accumulation_fusion=False,  # the weight is a part, not the parameter
                allreduce_dgrad=self.tp_group.size() > 1 and not sequence_parallel,
                sequence_parallel=sequence_parallel,
                grad_output_buffer=None,
                wgrad_deferral_limit=None,
                tp_group=self.tp_group,
            )
        if self.adapter is None:
            return output
        updated: Tensor = self.adapter(
            output,
            states,
            has_divided_rows=sequence_parallel,
            part=lambda rows: self._of_heads(rows, heads),
        )
        return updated

    @property
    def _by_head(self) -> tuple[int, int, int]:
        """The weight's rows: for each group its query heads, its key head, its value head."""
        config = self.config
        queries_per_group = config.num_attention_heads // config.num_query_groups
        rows_of_group = (queries_per_group + 2) * config.kv_channels
        return self.output_size_per_partition // rows_of_group, queries_per_group + 2, config.kv_channels

    def _of_heads(self, rows: Tensor, heads: slice) -> Tensor:
        """Of a tensor with a row, or a number, for each output those of some heads of each group."""
        return rows.view(*self._by_head, *rows.shape[1:])[:, heads].flatten(0, 2)
