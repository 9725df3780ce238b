"""Phi-3, Phi-3.5, Phi-4 and Phi-4-mini (transformers 5, models/phi3): fused qkv, fused gate and up."""

from modellink_rm.base.errors import UserError
from modellink_rm.model.families.family import Config, Family
from modellink_rm.model.families.fields import numbers_of, transformers_shape
from modellink_rm.model.families.llama import LAYER, NAMES
from modellink_rm.model.families.registry import FAMILIES
from modellink_rm.model.families.rotary_fields import rope_of
from modellink_rm.model.families.tensors import decoder_tensors
from modellink_rm.model.shape import ModelShape

_TENSORS = decoder_tensors(
    **{
        **NAMES,
        "qkv": (LAYER + "self_attn.qkv_proj",),
        "gate_and_up": (LAYER + "mlp.gate_up_proj",),
    }
)


def _phi3_shape(config: Config) -> ModelShape:
    _check_window(config)
    groups = "num_attention_heads" if config.get("num_key_value_heads") is None else "num_key_value_heads"
    # The default of transformers: Phi-3-mini-4k does not name its positions a second time.
    rope = rope_of({"original_max_position_embeddings": 4096, **config})
    if rope.scaling is not None and rope.scaling.kind != "longrope":
        raise UserError(
            f"rope_scaling of kind {rope.scaling.kind} in a Phi-3 is not supported; only longrope is"
        )
    return transformers_shape(
        config, rope=rope, num_query_groups=numbers_of(config, {groups: int})[groups], add_qkv_bias=False
    )


def _check_window(config: Config) -> None:
    """Refuse a window that a sequence can reach."""
    window = config.get("sliding_window")
    positions = numbers_of(config, {"max_position_embeddings": int})["max_position_embeddings"]
    if window is not None and numbers_of(config, {"sliding_window": int})["sliding_window"] < positions:
        raise UserError(
            f"sliding_window {window!r} changes the model's numbers and is not supported; set it to null if "
            "no sequence will be longer"
        )


FAMILIES.add(
    Family(read_shape=_phi3_shape, tensors=_TENSORS, classifier="Phi3ForSequenceClassification"), "phi3"
)
