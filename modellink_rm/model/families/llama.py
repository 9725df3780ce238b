"""Llama 2 and 3, Yi, and others of that shape (transformers 5, models/llama)."""

from typing import Any

from modellink_rm.model.families.family import Config, Family
from modellink_rm.model.families.fields import check_values, key_value_heads, transformers_shape
from modellink_rm.model.families.registry import FAMILIES
from modellink_rm.model.families.rotary_fields import whole_rope
from modellink_rm.model.families.tensors import decoder_tensors
from modellink_rm.model.shape import ModelShape

LAYER = "{prefix}layers.{layer}."
# All families of transformers that are like Llama name their tensors so.
NAMES: dict[str, Any] = {
    "prefix": "model.",
    "embedding": "{prefix}embed_tokens",
    "final_norm": "{prefix}norm",
    "input_norm": LAYER + "input_layernorm",
    "qkv": (LAYER + "self_attn.q_proj", LAYER + "self_attn.k_proj", LAYER + "self_attn.v_proj"),
    "attention_output": LAYER + "self_attn.o_proj",
    "mlp_norm": LAYER + "post_attention_layernorm",
    "gate_and_up": (LAYER + "mlp.gate_proj", LAYER + "mlp.up_proj"),
    "mlp_output": LAYER + "mlp.down_proj",
    "lm_head": "lm_head",
    "buffers": ("rotary_emb.inv_freq",),
}
LLAMA_TENSORS = decoder_tensors(**NAMES)


def _llama_shape(config: Config) -> ModelShape:
    check_values(config, {"attention_bias": (None, False)})
    return transformers_shape(
        config,
        rope=whole_rope(config),
        num_query_groups=key_value_heads(config, is_required=False),
        add_qkv_bias=False,
    )


FAMILIES.add(
    Family(read_shape=_llama_shape, tensors=LLAMA_TENSORS, classifier="LlamaForSequenceClassification"),
    "llama",
)
