"""Mistral, with or without a sliding window (transformers 5, models/mistral)."""

import dataclasses

from modellink_rm.base.errors import UserError
from modellink_rm.model.families.family import Config, Family
from modellink_rm.model.families.fields import key_value_heads, transformers_shape
from modellink_rm.model.families.llama import LLAMA_TENSORS
from modellink_rm.model.families.registry import FAMILIES
from modellink_rm.model.families.rotary_fields import whole_rope
from modellink_rm.model.families.window_fields import one_window, windows_of
from modellink_rm.model.shape import ModelShape


def mistral_shape(config: Config, *, reads_layer_types: bool) -> ModelShape:
    """The shape of a Mistral or a Ministral.

    Args:
        reads_layer_types: whether layer_types may give some layers the window alone.
    """
    # In transformers a missing sliding_window means 4096.
    config = {"sliding_window": 4096, **config}
    kinds = one_window(config)
    if not reads_layer_types and config.get("layer_types") not in (None, kinds):
        raise UserError("layer_types of a mistral is not read by transformers; use model_type 'ministral'")
    shape = transformers_shape(
        config, rope=whole_rope(config), num_query_groups=key_value_heads(config), add_qkv_bias=False
    )
    return dataclasses.replace(shape, windows=windows_of(config, kinds))


def _mistral_shape(config: Config) -> ModelShape:
    return mistral_shape(config, reads_layer_types=False)


FAMILIES.add(
    Family(read_shape=_mistral_shape, tensors=LLAMA_TENSORS, classifier="MistralForSequenceClassification"),
    "mistral",
)
