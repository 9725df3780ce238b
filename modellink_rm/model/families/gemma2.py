"""Gemma 2 (transformers 5, models/gemma2)."""

import dataclasses
import functools
from typing import Any

from modellink_rm.model.families.family import Config, Family
from modellink_rm.model.families.fields import (
    check_values,
    key_value_heads,
    positive_numbers_of,
    transformers_shape,
)
from modellink_rm.model.families.llama import LAYER, NAMES
from modellink_rm.model.families.registry import FAMILIES
from modellink_rm.model.families.rotary_fields import whole_rope
from modellink_rm.model.families.tensors import decoder_tensors, post_norms
from modellink_rm.model.families.window_fields import every_nth_full, windows_of
from modellink_rm.model.layers.block import decoder_layer
from modellink_rm.model.layers.embedding import ScaledTokenEmbedding
from modellink_rm.model.layers.gate import GeGLU
from modellink_rm.model.layers.norm import OffsetRMSNorm
from modellink_rm.model.rope import Rope
from modellink_rm.model.shape import ModelShape

GEMMA_NAMES: dict[str, Any] = {**NAMES, "mlp_norm": LAYER + "pre_feedforward_layernorm"}
GEMMA_POST_NORMS = post_norms(LAYER + "post_attention_layernorm", LAYER + "post_feedforward_layernorm")
# What a family of Gemma is made of, beside its tensors.
GEMMA_PARTS: dict[str, Any] = {
    "embedding": ScaledTokenEmbedding,
    "layer": functools.partial(decoder_layer, norm=OffsetRMSNorm, post_norm=OffsetRMSNorm, activation=GeGLU),
    "final_norm": OffsetRMSNorm,
}
_VALUES: dict[str, tuple[Any, ...]] = {
    "attention_bias": (None, False),
    "use_bidirectional_attention": (None, False),
}
# Gemma reads this field instead of hidden_act, which some published files have as well.
_ACTIVATIONS = {"hidden_activation": ("gelu_pytorch_tanh",)}


def gemma_shape(config: Config, rope: Rope, **fields: Any) -> ModelShape:
    """The shape of a Gemma 2 or 3, with further fields of the shape."""
    check_values(config, _VALUES)
    numbers = positive_numbers_of(config, {"head_dim": int, "query_pre_attn_scalar": float})
    shape = transformers_shape(
        config,
        rope=rope,
        num_query_groups=key_value_heads(config),
        add_qkv_bias=False,
        activations=_ACTIVATIONS,
    )
    return dataclasses.replace(shape, softmax_scale=numbers["query_pre_attn_scalar"] ** -0.5, **fields)


def _gemma2_shape(config: Config) -> ModelShape:
    config = {"attn_logit_softcapping": 50.0, **config}  # transformers' default
    softcap = None
    if config["attn_logit_softcapping"] is not None:
        softcap = positive_numbers_of(config, {"attn_logit_softcapping": float})["attn_logit_softcapping"]
    return gemma_shape(
        config,
        whole_rope(config),
        windows=windows_of(config, every_nth_full(config, 2)),
        attention_softcap=softcap,
    )


def gemma_logit_softcap(config: Config, *, default: float | None = None) -> float | None:
    """The softcap of a Gemma's logits: what config.json says, or transformers' default."""
    config = {"final_logit_softcapping": default, **config}
    if config["final_logit_softcapping"] is None:
        return None
    found = positive_numbers_of(config, {"final_logit_softcapping": float})
    return float(found["final_logit_softcapping"])


FAMILIES.add(
    Family(
        read_shape=_gemma2_shape,
        tensors=decoder_tensors(**GEMMA_NAMES, more_of_layer=GEMMA_POST_NORMS),
        classifier="Gemma2ForSequenceClassification",
        logit_softcap=functools.partial(gemma_logit_softcap, default=30.0),
        **GEMMA_PARTS,
    ),
    "gemma2",
)
