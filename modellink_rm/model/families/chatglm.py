"""ChatGLM2, ChatGLM3 and GLM-4 with THUDM's names (their own modeling_chatglm.py)."""

from typing import Any

from modellink_rm.base.errors import UserError
from modellink_rm.model.families.family import Config, Family
from modellink_rm.model.families.fields import check_values, numbers_of
from modellink_rm.model.families.registry import FAMILIES
from modellink_rm.model.families.tensors import decoder_tensors
from modellink_rm.model.shape import ModelShape

_LAYER = "{prefix}encoder.layers.{layer}."
_TENSORS = decoder_tensors(
    prefix="transformer.",
    embedding="{prefix}embedding.word_embeddings",
    final_norm="{prefix}encoder.final_layernorm",
    input_norm=_LAYER + "input_layernorm",
    qkv=(_LAYER + "self_attention.query_key_value",),
    attention_output=_LAYER + "self_attention.dense",
    mlp_norm=_LAYER + "post_attention_layernorm",
    gate_and_up=(_LAYER + "mlp.dense_h_to_4h",),
    mlp_output=_LAYER + "mlp.dense_4h_to_h",
    lm_head="{prefix}output_layer",
    buffers=("rotary_pos_emb.inv_freq",),
)

_FIELDS = {
    "num_layers": int,
    "hidden_size": int,
    "ffn_hidden_size": int,
    "num_attention_heads": int,
    "multi_query_group_num": int,
    "kv_channels": int,
    "padded_vocab_size": int,
    "seq_length": int,
    "layernorm_epsilon": float,
}
_VALUES: dict[str, tuple[Any, ...]] = {
    "rmsnorm": (True,),
    "post_layer_norm": (True, False),
    "add_bias_linear": (False,),
    "apply_residual_connection_post_layernorm": (False,),
    "interleaved_qkv": (None, False),
    "quantization_bit": (None, 0),
    "pre_seq_len": (None, 0),
    "rope_scaling": (None,),
    "position_encoding_2d": (None, False),
}


def _chatglm_shape(config: Config) -> ModelShape:
    numbers = numbers_of(config, _FIELDS)
    check_values(config, _VALUES)
    # Without it THUDM's fused tensor is laid out by head; no ChatGLM2, 3 or GLM-4 was published so.
    check_values({"multi_query_attention": False, **config}, {"multi_query_attention": (True,)})
    check_values(config, {"add_qkv_bias": (True, False)})
    ratio = numbers_of({"rope_ratio": 1, **config}, {"rope_ratio": float})["rope_ratio"]
    if ratio != 1 and "chatglm2" in str(config.get("_name_or_path")).lower():
        # ChatGLM2-6B-32K divides positions by the ratio; ChatGLM3 and GLM-4 multiply the base by it.
        raise UserError(f"rope_ratio {ratio:g} of a ChatGLM2 scales its positions and is not supported")
    return ModelShape(
        family=config["model_type"],
        num_layers=numbers["num_layers"],
        hidden_size=numbers["hidden_size"],
        ffn_hidden_size=numbers["ffn_hidden_size"],
        num_attention_heads=numbers["num_attention_heads"],
        num_query_groups=numbers["multi_query_group_num"],
        kv_channels=numbers["kv_channels"],
        vocab_size=numbers["padded_vocab_size"],
        max_position_embeddings=numbers["seq_length"],
        norm_epsilon=numbers["layernorm_epsilon"],
        rotary_base=10000.0 * ratio,
        rotary_percent=0.5,
        rotary_interleaved=True,
        add_qkv_bias=bool(config.get("add_qkv_bias", False)),
    )


# THUDM's code (modeling_chatglm.py) leaves the final norm out where post_layer_norm is false.
FAMILIES.add(
    Family(read_shape=_chatglm_shape, tensors=_TENSORS, final_norm_field="post_layer_norm"), "chatglm"
)
