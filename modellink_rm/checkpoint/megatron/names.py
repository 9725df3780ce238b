"""The engine's names of tensors, from those of ModelLink 1.0 and of all of Megatron-LM's models."""

import re

from modellink_rm.model.families.tensors import EMBEDDING, FINAL_LAYERNORM
from modellink_rm.model.spec import LAYER_PREFIX

LANGUAGE_MODEL_HEAD = "output_layer"
_LAYER = re.compile(r"(?:encoder|transformer|decoder)\.layers\.([0-9]+)\.(.+)")
# Of Megatron-LM's models before megatron-core, and of Transformer Engine's layers with a norm in them.
_IN_LAYER = {
    "input_norm.weight": "input_layernorm.weight",
    "self_attention.linear_qkv.layer_norm_weight": "input_layernorm.weight",
    "self_attention.query_key_value.weight": "self_attention.linear_qkv.weight",
    "self_attention.query_key_value.bias": "self_attention.linear_qkv.bias",
    "self_attention.dense.weight": "self_attention.linear_proj.weight",
    "self_attention.dense.bias": "self_attention.linear_proj.bias",
    "post_attention_norm.weight": "pre_mlp_layernorm.weight",
    "post_attention_layernorm.weight": "pre_mlp_layernorm.weight",
    "mlp.linear_fc1.layer_norm_weight": "pre_mlp_layernorm.weight",
    "mlp.dense_h_to_4h.weight": "mlp.linear_fc1.weight",
    "mlp.dense_4h_to_h.weight": "mlp.linear_fc2.weight",
}
_OUTSIDE = {
    "encoder.final_norm.weight": f"{FINAL_LAYERNORM}.weight",
    "encoder.final_layernorm.weight": f"{FINAL_LAYERNORM}.weight",
    "transformer.final_layernorm.weight": f"{FINAL_LAYERNORM}.weight",
    # Copies of a tied embedding, on the last pipeline stage.
    "word_embeddings.weight": f"{LANGUAGE_MODEL_HEAD}.weight",
    "word_embeddings_for_head.weight": f"{LANGUAGE_MODEL_HEAD}.weight",
}
# Of these parts the engine's tensors are ModelLink's.
COMMON_PARTS = frozenset(
    (
        EMBEDDING,
        FINAL_LAYERNORM,
        "input_layernorm",
        "pre_mlp_layernorm",
        "self_attention.linear_qkv",
        "self_attention.linear_proj",
        "self_attention.q_layernorm",
        "self_attention.k_layernorm",
        "mlp.linear_fc1",
        "mlp.linear_fc2",
    )
)


def layer_number(stored: str) -> int | None:
    """The number, within its stage, of the layer that a stored tensor belongs to; None outside of layers."""
    found = _LAYER.fullmatch(stored.removeprefix("language_model."))
    return int(found[1]) if found else None


def engine_name(stored: str, *, first_layer: int) -> str:
    """The engine's name of a stored tensor, or the stored one where the engine has none.

    Args:
        first_layer: number of the stage's first layer in the whole model.
    """
    name = stored.removeprefix("language_model.")
    found = _LAYER.fullmatch(name)
    if found is None:
        return _OUTSIDE.get(name, name)
    return f"{LAYER_PREFIX}{int(found[1]) + first_layer}.{_IN_LAYER.get(found[2], found[2])}"
