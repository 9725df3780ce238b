"""OLMo 2 (transformers 5, models/olmo2): norms after the blocks alone, and of queries and keys."""

import dataclasses
import functools
from typing import Any

from modellink_rm.model.families.family import Config, Family
from modellink_rm.model.families.fields import check_values, key_value_heads, transformers_shape
from modellink_rm.model.families.llama import LAYER, NAMES
from modellink_rm.model.families.registry import FAMILIES
from modellink_rm.model.families.rotary_fields import whole_rope
from modellink_rm.model.families.tensors import all_heads_norms, decoder_tensors, post_norms
from modellink_rm.model.layers.block import decoder_layer
from modellink_rm.model.layers.norm import RMSNorm
from modellink_rm.model.rope import Rope
from modellink_rm.model.shape import ModelShape

# The parts of OLMo 2 and 3.
OLMO_PARTS: dict[str, Any] = {
    "tensors": decoder_tensors(
        **{**NAMES, "input_norm": None, "mlp_norm": None},
        more_of_layer=(
            *post_norms(LAYER + "post_attention_layernorm", LAYER + "post_feedforward_layernorm"),
            *all_heads_norms(LAYER + "self_attn.q_norm", LAYER + "self_attn.k_norm"),
        ),
    ),
    "layer": functools.partial(decoder_layer, norm=None, post_norm=RMSNorm),
}


def olmo_shape(config: Config, rope: Rope, **fields: Any) -> ModelShape:
    """The shape of an OLMo 2 or 3, with further fields of the shape."""
    check_values(config, {"attention_bias": (None, False)})
    shape = transformers_shape(
        config, rope=rope, num_query_groups=key_value_heads(config, is_required=False), add_qkv_bias=False
    )
    return dataclasses.replace(shape, qk_norm="all", **fields)


def _olmo2_shape(config: Config) -> ModelShape:
    return olmo_shape(config, whole_rope(config))


FAMILIES.add(
    Family(read_shape=_olmo2_shape, classifier="Olmo2ForSequenceClassification", **OLMO_PARTS), "olmo2"
)
