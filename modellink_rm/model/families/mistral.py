"""Mistral without a sliding window (transformers 5, models/mistral)."""

from modellink_rm.base.errors import UserError
from modellink_rm.model.families.family import Config, Family
from modellink_rm.model.families.fields import key_value_heads, transformers_shape
from modellink_rm.model.families.llama import LLAMA_TENSORS
from modellink_rm.model.families.registry import FAMILIES
from modellink_rm.model.families.rotary_fields import whole_rope
from modellink_rm.model.shape import ModelShape


def _mistral_shape(config: Config) -> ModelShape:
    # In transformers a missing sliding_window means 4096.
    window = config.get("sliding_window", 4096)
    if window is not None:
        raise UserError(
            f"sliding_window {window!r} changes the model's numbers and is not supported; set it to null if "
            "no sequence will be longer"
        )
    return transformers_shape(
        config, rope=whole_rope(config), num_query_groups=key_value_heads(config), add_qkv_bias=False
    )


FAMILIES.add(
    Family(read_shape=_mistral_shape, tensors=LLAMA_TENSORS, classifier="MistralForSequenceClassification"),
    "mistral",
)
