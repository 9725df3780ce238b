"""Qwen3 (transformers 5, models/qwen3): each head's queries and keys are normed."""

import dataclasses

from modellink_rm.model.families.family import Config, Family
from modellink_rm.model.families.fields import (
    check_values,
    key_value_heads,
    numbers_of,
    transformers_shape,
)
from modellink_rm.model.families.llama import LAYER, NAMES
from modellink_rm.model.families.registry import FAMILIES
from modellink_rm.model.families.rotary_fields import whole_rope
from modellink_rm.model.families.tensors import decoder_tensors, head_norms
from modellink_rm.model.families.window_fields import qwen_windows
from modellink_rm.model.shape import ModelShape

_TENSORS = decoder_tensors(
    **NAMES, more_of_layer=head_norms(LAYER + "self_attn.q_norm", LAYER + "self_attn.k_norm")
)


def _qwen3_shape(config: Config) -> ModelShape:
    check_values(config, {"attention_bias": (None, False)})
    numbers_of(config, {"head_dim": int})  # transformers' default is not hidden size / heads
    shape = transformers_shape(
        config,
        rope=whole_rope(config),
        num_query_groups=key_value_heads(config),
        add_qkv_bias=False,
        qk_norm="head",
    )
    return dataclasses.replace(shape, windows=qwen_windows(config))


FAMILIES.add(
    Family(read_shape=_qwen3_shape, tensors=_TENSORS, classifier="Qwen3ForSequenceClassification"), "qwen3"
)
