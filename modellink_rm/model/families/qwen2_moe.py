"""Qwen1.5-MoE and Qwen2-MoE (transformers 5, models/qwen2_moe)."""

import dataclasses

from modellink_rm.model.families.experts_fields import qwen_experts
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
from modellink_rm.model.families.tensors import decoder_tensors, experts_tensors, shared_expert_tensors
from modellink_rm.model.families.window_fields import FULL, SLIDING, windows_of
from modellink_rm.model.shape import ModelShape

_EXPERT = LAYER + "mlp.experts.{expert}."
_SHARED = LAYER + "mlp.shared_expert."
# Qwen3-MoE's too.
QWEN_EXPERTS = experts_tensors(
    router_name=LAYER + "mlp.gate",
    gate_and_up=(_EXPERT + "gate_proj", _EXPERT + "up_proj"),
    output=_EXPERT + "down_proj",
)
_TENSORS = decoder_tensors(
    **NAMES,
    more_of_layer=(
        *QWEN_EXPERTS,
        *shared_expert_tensors(
            gate_and_up=(_SHARED + "gate_proj", _SHARED + "up_proj"),
            output=_SHARED + "down_proj",
            gate=LAYER + "mlp.shared_expert_gate",
        ),
    ),
)


def _qwen2_moe_shape(config: Config) -> ModelShape:
    check_values(config, {"qkv_bias": (None, True, False)})
    shape = transformers_shape(
        config,
        rope=whole_rope(config),
        num_query_groups=key_value_heads(config),
        add_qkv_bias=config.get("qkv_bias") is not False,
    )
    experts = qwen_experts(config, has_shared=True)
    return dataclasses.replace(shape, experts=experts, windows=_windows(config))


def _windows(config: Config) -> tuple[int | None, ...]:
    """With use_sliding_window, those of every second layer below max_window_layers."""
    check_values(config, {"use_sliding_window": (None, False, True)})
    if not config.get("use_sliding_window"):
        # transformers gives layers that layer_types names all the same a window of no token.
        num_layers = numbers_of(config, {"num_hidden_layers": int})["num_hidden_layers"]
        check_values(config, {"layer_types": (None, [FULL] * num_layers)})
        return ()
    numbers = numbers_of(config, {"num_hidden_layers": int, "max_window_layers": int})
    layers, last = range(numbers["num_hidden_layers"]), numbers["max_window_layers"]
    return windows_of(config, [SLIDING if layer % 2 == 0 and layer < last else FULL for layer in layers])


FAMILIES.add(
    Family(read_shape=_qwen2_moe_shape, tensors=_TENSORS, classifier="Qwen2MoeForSequenceClassification"),
    "qwen2_moe",
)
