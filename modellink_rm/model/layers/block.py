"""Layer specifications for megatron-core: its modules with our norm, gate and attention."""

from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
from megatron.core.transformer.attention import SelfAttention, SelfAttentionSubmodules
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.mlp import MLPSubmodules
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_layer import TransformerLayer, TransformerLayerSubmodules

from modellink_rm.experts.mlp import ExpertsMLP
from modellink_rm.model.attention.packed import PackedAttention
from modellink_rm.model.config import RewardModelConfig
from modellink_rm.model.layers.dense_mlp import DenseMLP
from modellink_rm.model.layers.gate import SwiGLU
from modellink_rm.model.layers.latent import LatentAttention, ScoredRowsLatentAttention
from modellink_rm.model.layers.linears import Linears
from modellink_rm.model.layers.norm import AllHeadsRMSNorm, RMSNorm
from modellink_rm.model.layers.residual import NormThenAdd
from modellink_rm.model.layers.scored_rows import ScoredRowsAttention, ScoredRowsLayer
from modellink_rm.model.layers.sparse import LastSparseLayer, SparseLayer
from modellink_rm.model.shape import ModelShape
from modellink_rm.model.spec import ModelSpec


@dataclass(frozen=True)
class _MLPSpec:
    """An MLP, or experts; of a `ModuleSpec` the engine would warn that it does not know their class."""

    module: type[torch.nn.Module]
    submodules: MLPSubmodules
    params: dict[str, Any] = field(default_factory=dict)


class MakeLayer(Protocol):
    """The specification of one layer."""

    def __call__(
        self, spec: ModelSpec, number: int, *, scores_rows: bool, config: RewardModelConfig
    ) -> ModuleSpec:
        """The specification of layer `number` of the model.

        Args:
            number: over the whole model, from 0; for models whose layers differ.
            scores_rows: whether it is the last layer, which is computed for scored rows only.
            config: the engine's, for parts that megatron-core creates without it.
        """


def decoder_layer(
    spec: ModelSpec,
    number: int,
    *,
    scores_rows: bool,
    config: RewardModelConfig,
    norm: type[torch.nn.Module] | None = RMSNorm,
    post_norm: type[torch.nn.Module] | None = None,
    activation: type[torch.nn.Module] = SwiGLU,
    core_attention: type[torch.nn.Module] = PackedAttention,
    linears: Linears | None = None,
) -> ModuleSpec:
    """A `MakeLayer` for norm, attention, norm and gated MLP, or experts where the shape has them.

    Families bind other parts to its arguments.

    Args:
        norm: before attention, and before the MLP; None for none.
        post_norm: of the output of attention, and of the MLP, before it is added to the residual.
        activation: of the MLP and of experts, [..., 2f] -> [..., f].
        core_attention: rotates queries and keys, and attends.
    """
    linears = linears or Linears()
    add = get_bias_dropout_add
    if post_norm is not None:
        add = ModuleSpec(module=NormThenAdd, params={"config": config, "norm": post_norm})
    is_sparse, experts = spec.shape.is_sparse(number), spec.shape.experts
    # Balanced routers want all tokens; see `LastSparseLayer`.
    is_whole = scores_rows and is_sparse and experts is not None and experts.balances
    layer: type[TransformerLayer] = SparseLayer if is_sparse else TransformerLayer
    if scores_rows:
        layer = LastSparseLayer if is_whole else ScoredRowsLayer
        scores_rows = not is_whole
    if spec.shape.latent is not None:
        self_attention = ModuleSpec(
            module=ScoredRowsLatentAttention if scores_rows else LatentAttention,
            params={"shape": spec.shape.latent, "linears": linears, "core_attention": core_attention},
        )
    else:
        self_attention = _self_attention(
            spec.shape,
            scores_rows=scores_rows,
            norm=norm or post_norm,
            core_attention=core_attention,
            linears=linears,
        )
    mlp_parts = MLPSubmodules(linear_fc1=linears.column, activation_func=activation, linear_fc2=linears.row)
    mlp = _MLPSpec(ExpertsMLP, mlp_parts, {"shape": experts}) if is_sparse else _MLPSpec(DenseMLP, mlp_parts)
    return ModuleSpec(
        module=layer,
        submodules=TransformerLayerSubmodules(
            input_layernorm=norm or IdentityOp,
            self_attention=self_attention,
            self_attn_bda=add,
            pre_mlp_layernorm=norm or IdentityOp,
            mlp=mlp,
            mlp_bda=add,
        ),
    )


def _self_attention(
    shape: ModelShape,
    *,
    scores_rows: bool,
    norm: type[torch.nn.Module] | None,
    core_attention: type[torch.nn.Module],
    linears: Linears,
) -> ModuleSpec:
    """Attention with projections to queries, keys and values of the hidden state.

    Args:
        norm: of queries and keys, where the shape asks for some.
    """
    query_norm, key_norm = _query_and_key_norms(shape, norm)
    return ModuleSpec(
        module=ScoredRowsAttention if scores_rows else SelfAttention,
        params={"attn_mask_type": AttnMaskType.causal},
        submodules=SelfAttentionSubmodules(
            linear_qkv=linears.row_queries if scores_rows else linears.column,
            core_attention=core_attention,
            linear_proj=linears.biased_row if shape.attention_output_bias else linears.row,
            q_layernorm=query_norm,
            k_layernorm=key_norm,
        ),
    )


def _query_and_key_norms(shape: ModelShape, norm: type[torch.nn.Module] | None) -> tuple[Any, Any]:
    """The norms of queries and of keys that the shape asks for."""
    if shape.qk_norm == "all":
        return (
            ModuleSpec(module=AllHeadsRMSNorm, params={"num_heads": shape.num_attention_heads}),
            ModuleSpec(module=AllHeadsRMSNorm, params={"num_heads": shape.num_query_groups}),
        )
    return (norm, norm) if shape.qk_norm else (None, None)
