"""Qwen2 and Qwen2.5 (transformers 5, models/qwen2)."""

import dataclasses

from modellink_rm.model.families.family import Config, Family
from modellink_rm.model.families.fields import check_values, key_value_heads, transformers_shape
from modellink_rm.model.families.llama import LLAMA_TENSORS
from modellink_rm.model.families.registry import FAMILIES
from modellink_rm.model.families.rotary_fields import whole_rope
from modellink_rm.model.families.window_fields import qwen_windows
from modellink_rm.model.shape import ModelShape


def _qwen2_shape(config: Config) -> ModelShape:
    check_values(config, {"use_mrope": (None, False)})
    shape = transformers_shape(
        config, rope=whole_rope(config), num_query_groups=key_value_heads(config), add_qkv_bias=True
    )
    return dataclasses.replace(shape, windows=qwen_windows(config))


FAMILIES.add(
    Family(read_shape=_qwen2_shape, tensors=LLAMA_TENSORS, classifier="Qwen2ForSequenceClassification"),
    "qwen2",
)
