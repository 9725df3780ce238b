"""Phi-3, Phi-3.5, Phi-4 and Phi-4-mini (transformers 5, models/phi3): fused qkv, fused gate and up."""

import dataclasses

from modellink_rm.base.errors import UserError
from modellink_rm.model.families.family import Config, Family
from modellink_rm.model.families.fields import key_value_heads, transformers_shape
from modellink_rm.model.families.llama import LAYER, NAMES
from modellink_rm.model.families.registry import FAMILIES
from modellink_rm.model.families.rotary_fields import rope_of
from modellink_rm.model.families.tensors import decoder_tensors
from modellink_rm.model.families.window_fields import one_window, windows_of
from modellink_rm.model.shape import ModelShape

_TENSORS = decoder_tensors(
    **{
        **NAMES,
        "qkv": (LAYER + "self_attn.qkv_proj",),
        "gate_and_up": (LAYER + "mlp.gate_up_proj",),
    }
)


def _phi3_shape(config: Config) -> ModelShape:
    # The default of transformers: Phi-3-mini-4k does not name its positions a second time.
    rope = rope_of({"original_max_position_embeddings": 4096, **config})
    if rope.scaling is not None and rope.scaling.kind != "longrope":
        raise UserError(
            f"rope_scaling of kind {rope.scaling.kind} in a Phi-3 is not supported; only longrope is"
        )
    shape = transformers_shape(
        config, rope=rope, num_query_groups=key_value_heads(config, is_required=False), add_qkv_bias=False
    )
    return dataclasses.replace(shape, windows=windows_of(config, one_window(config)))


FAMILIES.add(
    Family(read_shape=_phi3_shape, tensors=_TENSORS, classifier="Phi3ForSequenceClassification"), "phi3"
)
