"""Transformer layers with experts in place of the MLP."""

from typing import Any

from megatron.core.transformer.transformer_layer import TransformerLayer
from torch import Tensor

from modellink_rm.experts.mlp import give_routing
from modellink_rm.model.attention.packed import PackedLayout
from modellink_rm.model.layers.scored_rows import rows_of


class SparseLayer(TransformerLayer):
    """A layer that tells its experts which micro-batch they compute, in recomputation too."""

    def forward(self, *arguments: Any, packed_seq_params: PackedLayout, **keywords: Any) -> Any:
        """As the engine's layer."""
        give_routing(self.mlp, packed_seq_params.routing)
        return super().forward(*arguments, packed_seq_params=packed_seq_params, **keywords)


class LastSparseLayer(SparseLayer):
    """The last layer of a model whose routers are balanced: computed for all tokens.

    The losses on the routers' choices are over all tokens, as other trainers have them; of the output only
    the scored rows are returned, as by `ScoredRowsLayer`.
    """

    def forward(
        self, *arguments: Any, packed_seq_params: PackedLayout, **keywords: Any
    ) -> tuple[Tensor, None]:
        """Hidden states [n, 1, h], equal on every tensor-parallel rank, and None for the `context`."""
        hidden_states, _ = super().forward(*arguments, packed_seq_params=packed_seq_params, **keywords)
        assert packed_seq_params.scored is not None
        return rows_of(self, hidden_states, packed_seq_params.scored.rows), None
