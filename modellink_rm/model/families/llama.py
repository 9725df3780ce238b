"""Llama 2 and 3, Yi, and others of that shape (transformers 5, models/llama)."""

from modellink_rm.model.families.family import Config, Family, TensorNames
from modellink_rm.model.families.fields import check_values, numbers_of, transformers_shape, whole_rope
from modellink_rm.model.shape import ModelShape

LAYER = "{prefix}layers.{layer}."
LLAMA_NAMES = TensorNames(
    prefix="model.",
    embedding="{prefix}embed_tokens",
    input_layernorm=LAYER + "input_layernorm",
    qkv=(LAYER + "self_attn.q_proj", LAYER + "self_attn.k_proj", LAYER + "self_attn.v_proj"),
    attention_out=LAYER + "self_attn.o_proj",
    pre_mlp_layernorm=LAYER + "post_attention_layernorm",
    gate_up=(LAYER + "mlp.gate_proj", LAYER + "mlp.up_proj"),
    mlp_out=LAYER + "mlp.down_proj",
    final_layernorm="{prefix}norm",
    lm_head="lm_head",
    buffers=("rotary_emb.inv_freq",),
)


def _llama_shape(config: Config) -> ModelShape:
    check_values(config, {"attention_bias": (None, False)})
    groups = "num_attention_heads" if config.get("num_key_value_heads") is None else "num_key_value_heads"
    return transformers_shape(
        config,
        rope=whole_rope(config),
        num_query_groups=numbers_of(config, {groups: int})[groups],
        add_qkv_bias=False,
    )


LLAMA = Family(name="llama", read_shape=_llama_shape, names=LLAMA_NAMES)
