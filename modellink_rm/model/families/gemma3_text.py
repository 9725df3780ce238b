"""Gemma 3, the models of text alone (transformers 5, models/gemma3, Gemma3TextConfig)."""

from modellink_rm.model.families.family import Config, Family
from modellink_rm.model.families.fields import check_values, positive_numbers_of
from modellink_rm.model.families.gemma2 import (
    GEMMA_NAMES,
    GEMMA_PARTS,
    GEMMA_POST_NORMS,
    gemma_logit_softcap,
    gemma_shape,
)
from modellink_rm.model.families.llama import LAYER
from modellink_rm.model.families.registry import FAMILIES
from modellink_rm.model.families.tensors import decoder_tensors, head_norms
from modellink_rm.model.families.window_fields import every_nth_full, ropes_by_kind, windows_of
from modellink_rm.model.shape import ModelShape

# transformers' defaults (configuration_gemma3.py).
_DEFAULTS = {"rope_theta": 1_000_000.0, "rope_local_base_freq": 10_000.0, "sliding_window_pattern": 6}
_TENSORS = decoder_tensors(
    **GEMMA_NAMES,
    more_of_layer=(*GEMMA_POST_NORMS, *head_norms(LAYER + "self_attn.q_norm", LAYER + "self_attn.k_norm")),
)


def _gemma3_shape(config: Config) -> ModelShape:
    # transformers' attention of Gemma 3 reads the field, and applies no cap.
    check_values(config, {"attn_logit_softcapping": (None,)})
    config = {**_DEFAULTS, **{name: value for name, value in config.items() if value is not None}}
    numbers = positive_numbers_of(config, {"rope_local_base_freq": float, "sliding_window_pattern": int})
    rope, local_base = ropes_by_kind(config, local_theta=numbers["rope_local_base_freq"])
    return gemma_shape(
        config,
        rope,
        windows=windows_of(config, every_nth_full(config, numbers["sliding_window_pattern"])),
        local_rotary_base=local_base,
        qk_norm="head",
    )


FAMILIES.add(
    Family(
        read_shape=_gemma3_shape,
        tensors=_TENSORS,
        classifier="Gemma3TextForSequenceClassification",
        logit_softcap=gemma_logit_softcap,
        **GEMMA_PARTS,
    ),
    "gemma3_text",
)
