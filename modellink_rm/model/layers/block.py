"""The layer specification given to megatron-core: its linears, our norm, gate and attention."""

from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.attention import SelfAttention, SelfAttentionSubmodules
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.mlp import MLP, MLPSubmodules
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules
from megatron.core.transformer.transformer_layer import TransformerLayer, TransformerLayerSubmodules

from modellink_rm.model.attention.packed import PackedAttention
from modellink_rm.model.layers.gate import SwiGLU
from modellink_rm.model.layers.norm import RMSNorm
from modellink_rm.model.layers.scored_rows import RowQueriesLinear, ScoredRowsAttention, ScoredRowsLayer


def block_spec(num_layers: int, *, ends_model: bool, has_final_norm: bool) -> TransformerBlockSubmodules:
    """Submodules of one stage's block of `num_layers` layers.

    Args:
        ends_model: whether the last of them is the model's last, computed for scored rows only.
        has_final_norm: whether the last stage ends with the norm (it is left out by
            --no-post-layer-norm).
    """
    layer_specs = [_layer_spec(TransformerLayer, SelfAttention, ColumnParallelLinear)] * num_layers
    if ends_model:
        layer_specs[-1] = _layer_spec(ScoredRowsLayer, ScoredRowsAttention, RowQueriesLinear)
    return TransformerBlockSubmodules(layer_specs=layer_specs, layer_norm=RMSNorm if has_final_norm else None)


def _layer_spec(
    layer: type[TransformerLayer], attention: type[SelfAttention], linear_qkv: type[ColumnParallelLinear]
) -> ModuleSpec:
    self_attention = ModuleSpec(
        module=attention,
        params={"attn_mask_type": AttnMaskType.causal},
        submodules=SelfAttentionSubmodules(
            linear_qkv=linear_qkv, core_attention=PackedAttention, linear_proj=RowParallelLinear
        ),
    )
    mlp = ModuleSpec(
        module=MLP,
        submodules=MLPSubmodules(
            linear_fc1=ColumnParallelLinear, activation_func=SwiGLU, linear_fc2=RowParallelLinear
        ),
    )
    return ModuleSpec(
        module=layer,
        submodules=TransformerLayerSubmodules(
            input_layernorm=RMSNorm,
            self_attention=self_attention,
            self_attn_bda=get_bias_dropout_add,
            pre_mlp_layernorm=RMSNorm,
            mlp=mlp,
            mlp_bda=get_bias_dropout_add,
        ),
    )
