"""GLM-4 in transformers' form (transformers 5, models/glm)."""

from typing import Any

from modellink_rm.base.errors import UserError
from modellink_rm.model.families.family import Config, Family
from modellink_rm.model.families.fields import check_values, key_value_heads, transformers_shape
from modellink_rm.model.families.llama import LAYER, NAMES
from modellink_rm.model.families.registry import FAMILIES
from modellink_rm.model.families.rotary_fields import rope_of
from modellink_rm.model.families.tensors import decoder_tensors
from modellink_rm.model.shape import ModelShape

GLM_NAMES: dict[str, Any] = {**NAMES, "gate_and_up": (LAYER + "mlp.gate_up_proj",)}


def glm_shape(config: Config) -> ModelShape:
    """The shape of a GLM-4, of either form of its layers."""
    # Required, for the same reason as the key/value heads: versions of transformers disagree.
    missing = [name for name in ("attention_bias", "head_dim") if config.get(name) is None]
    if missing:
        raise UserError(f"model_type {config['model_type']!r} needs {', '.join(missing)}")
    if config.get("partial_rotary_factor", 0.5) is None:
        raise UserError(
            "partial_rotary_factor must be a number: transformers takes null for 1, and a missing one for 0.5"
        )
    check_values(config, {"attention_bias": (True, False)})
    return transformers_shape(
        config,
        rope=rope_of(config, partial_factor=0.5),
        num_query_groups=key_value_heads(config),
        add_qkv_bias=config["attention_bias"],
        rotary_interleaved=True,
    )


FAMILIES.add(
    Family(
        read_shape=glm_shape, tensors=decoder_tensors(**GLM_NAMES), classifier="GlmForSequenceClassification"
    ),
    "glm",
)
