"""Mixtral, with or without a sliding window (transformers 5, models/mixtral)."""

import dataclasses

from modellink_rm.experts.shape import Experts
from modellink_rm.model.families.experts_fields import aux_loss_coef
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
from modellink_rm.model.families.tensors import decoder_tensors, experts_tensors
from modellink_rm.model.families.window_fields import one_window, windows_of
from modellink_rm.model.shape import ModelShape

_EXPERT = LAYER + "block_sparse_moe.experts.{expert}."
_TENSORS = decoder_tensors(
    **NAMES,
    more_of_layer=experts_tensors(
        router_name=LAYER + "block_sparse_moe.gate",
        gate_and_up=(_EXPERT + "w1", _EXPERT + "w3"),
        output=_EXPERT + "w2",
    ),
)


def _mixtral_shape(config: Config) -> ModelShape:
    check_values(config, {"router_jitter_noise": (None, 0), "layer_types": (None, one_window(config))})
    numbers = numbers_of(config, {"num_local_experts": int, "num_experts_per_tok": int})
    shape = transformers_shape(
        config, rope=whole_rope(config), num_query_groups=key_value_heads(config), add_qkv_bias=False
    )
    experts = Experts(
        number=numbers["num_local_experts"],
        ffn_hidden_size=shape.ffn_hidden_size,
        top_k=numbers["num_experts_per_tok"],
        normalizes_weights=True,
        aux_loss_coef=aux_loss_coef(config),
    )
    windows = windows_of(config, one_window(config))
    return dataclasses.replace(shape, experts=experts, windows=windows)


FAMILIES.add(
    Family(read_shape=_mixtral_shape, tensors=_TENSORS, classifier="MixtralForSequenceClassification"),
    "mixtral",
)
