"""Qwen3-MoE (transformers 5, models/qwen3_moe): each head's queries and keys are normed."""

import dataclasses

from modellink_rm.model.families.experts_fields import qwen_experts
from modellink_rm.model.families.family import Config, Family
from modellink_rm.model.families.fields import (
    check_values,
    key_value_heads,
    transformers_shape,
)
from modellink_rm.model.families.llama import LAYER, NAMES
from modellink_rm.model.families.qwen2_moe import QWEN_EXPERTS
from modellink_rm.model.families.registry import FAMILIES
from modellink_rm.model.families.rotary_fields import whole_rope
from modellink_rm.model.families.tensors import decoder_tensors, head_norms
from modellink_rm.model.families.window_fields import one_window, windows_of
from modellink_rm.model.shape import ModelShape

_TENSORS = decoder_tensors(
    **NAMES,
    more_of_layer=(
        *head_norms(LAYER + "self_attn.q_norm", LAYER + "self_attn.k_norm"),
        *QWEN_EXPERTS,
    ),
)


def _qwen3_moe_shape(config: Config) -> ModelShape:
    check_values(config, {"attention_bias": (None, False)})
    shape = transformers_shape(
        config,
        rope=whole_rope(config),
        num_query_groups=key_value_heads(config),
        add_qkv_bias=False,
        qk_norm="head",
    )
    experts = qwen_experts(config, has_shared=False)
    return dataclasses.replace(shape, experts=experts, windows=_windows(config))


def _windows(config: Config) -> tuple[int | None, ...]:
    """With use_sliding_window, those of all layers: transformers does not read max_window_layers here."""
    check_values(config, {"use_sliding_window": (None, False, True)})
    kinds = one_window(config if config.get("use_sliding_window") else {**config, "sliding_window": None})
    check_values(config, {"layer_types": (None, kinds)})
    return windows_of(config, kinds)


FAMILIES.add(
    Family(read_shape=_qwen3_moe_shape, tensors=_TENSORS, classifier="Qwen3MoeForSequenceClassification"),
    "qwen3_moe",
)
