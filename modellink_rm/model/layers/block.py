"""Layer specifications for megatron-core: its modules with our norm, gate and attention."""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
from megatron.core.transformer.attention import SelfAttention, SelfAttentionSubmodules
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.mlp import MLP, MLPSubmodules
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_layer import TransformerLayer, TransformerLayerSubmodules

from modellink_rm.model.attention.packed import PackedAttention
from modellink_rm.model.layers.gate import SwiGLU
from modellink_rm.model.layers.linears import Linears
from modellink_rm.model.layers.norm import RMSNorm
from modellink_rm.model.layers.scored_rows import ScoredRowsAttention, ScoredRowsLayer
from modellink_rm.model.spec import ModelSpec


class MakeLayer(Protocol):
    """The specification of one layer."""

    def __call__(self, spec: ModelSpec, number: int, *, scores_rows: bool) -> ModuleSpec:
        """The specification of layer `number` of the model.

        Args:
            number: over the whole model, from 0; for models whose layers differ.
            scores_rows: whether it is the last layer, which is computed for scored rows only.
        """


def decoder_layer(
    spec: ModelSpec,
    number: int,
    *,
    scores_rows: bool,
    norm: type[torch.nn.Module] = RMSNorm,
    head_norm: type[torch.nn.Module] | None = None,
    activation: type[torch.nn.Module] = SwiGLU,
    core_attention: type[torch.nn.Module] = PackedAttention,
    add_to_residual: Callable[..., Any] | type[torch.nn.Module] = get_bias_dropout_add,
    linears: Linears | None = None,
) -> ModuleSpec:
    """A `MakeLayer` for norm, attention, norm and gated MLP; families bind other parts to its arguments.

    Args:
        norm: before attention, and before the MLP.
        head_norm: of queries and keys before the rotation, where the shape's `qk_norm` says so; by default
            `norm`.
        activation: of the MLP, [..., 2f] -> [..., f].
        core_attention: rotates queries and keys, and attends.
        add_to_residual: adds the output of attention or MLP to the residual.
    """
    linears = linears or Linears()
    head_norm = (head_norm or norm) if spec.shape.qk_norm else None
    self_attention = ModuleSpec(
        module=ScoredRowsAttention if scores_rows else SelfAttention,
        params={"attn_mask_type": AttnMaskType.causal},
        submodules=SelfAttentionSubmodules(
            linear_qkv=linears.row_queries if scores_rows else linears.column,
            core_attention=core_attention,
            linear_proj=linears.row,
            q_layernorm=head_norm,
            k_layernorm=head_norm,
        ),
    )
    mlp = ModuleSpec(
        module=MLP,
        submodules=MLPSubmodules(
            linear_fc1=linears.column, activation_func=activation, linear_fc2=linears.row
        ),
    )
    return ModuleSpec(
        module=ScoredRowsLayer if scores_rows else TransformerLayer,
        submodules=TransformerLayerSubmodules(
            input_layernorm=norm,
            self_attention=self_attention,
            self_attn_bda=add_to_residual,
            pre_mlp_layernorm=norm,
            mlp=mlp,
            mlp_bda=add_to_residual,
        ),
    )
