"""gpt-oss (transformers 5, models/gpt_oss), dequantized: its experts are published in MXFP4."""

import dataclasses
import functools

from modellink_rm.base.errors import UserError
from modellink_rm.experts.shape import Experts
from modellink_rm.model.families.experts_fields import aux_loss_coef, num_experts
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
from modellink_rm.model.families.tensors import attention_sinks, decoder_tensors, stacked_experts_tensors
from modellink_rm.model.families.window_fields import every_nth_full, windows_of
from modellink_rm.model.layers.block import decoder_layer
from modellink_rm.model.layers.elementwise import CLAMPED_SWIGLU_ALPHA, CLAMPED_SWIGLU_LIMIT
from modellink_rm.model.layers.gate import ClampedSwiGLU
from modellink_rm.model.shape import ModelShape

_TENSORS = decoder_tensors(
    **NAMES,
    more_of_layer=(
        *attention_sinks(LAYER + "self_attn.sinks"),
        *stacked_experts_tensors(
            router_name=LAYER + "mlp.router",
            gate_and_up=LAYER + "mlp.experts.gate_up_proj",
            output=LAYER + "mlp.experts.down_proj",
        ),
    ),
)
# transformers' defaults, where they are not those of other families.
_DEFAULTS = {"attention_bias": True, "head_dim": 64, "rope_theta": 150000.0}


def _gpt_oss_shape(config: Config) -> ModelShape:
    config = {**_DEFAULTS, **config}
    check_values(
        config,
        {
            "attention_bias": (True, False),
            "swiglu_alpha": (CLAMPED_SWIGLU_ALPHA,),
            "swiglu_limit": (CLAMPED_SWIGLU_LIMIT,),
        },
    )
    # Without them transformers scales the angles all the same.
    if not (config.get("rope_scaling") or config.get("rope_parameters")):
        raise UserError("model_type 'gpt_oss' needs rope_scaling or rope_parameters")
    numbers = numbers_of(config, {"rope_theta": float, "num_experts_per_tok": int})
    has_biases = config["attention_bias"]
    shape = transformers_shape(
        config,
        rope=whole_rope(config),
        num_query_groups=key_value_heads(config),
        add_qkv_bias=has_biases,
    )
    experts = Experts(
        number=num_experts(config),
        ffn_hidden_size=shape.ffn_hidden_size,
        top_k=numbers["num_experts_per_tok"],
        normalizes_weights=True,  # the softmax over the chosen logits
        has_biases=True,
        aux_loss_coef=aux_loss_coef(config),
    )
    return dataclasses.replace(
        shape,
        experts=experts,
        windows=windows_of(config, every_nth_full(config, 2)),
        attention_sinks=True,
        attention_output_bias=has_biases,
    )


FAMILIES.add(
    Family(
        read_shape=_gpt_oss_shape,
        tensors=_TENSORS,
        classifier="GptOssForSequenceClassification",
        layer=functools.partial(decoder_layer, activation=ClampedSwiGLU),
    ),
    "gpt_oss",
)
