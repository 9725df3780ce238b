"""Ministral, whose layers may differ in their window (transformers 5, models/ministral)."""

from modellink_rm.model.families.family import Config, Family
from modellink_rm.model.families.llama import LLAMA_TENSORS
from modellink_rm.model.families.mistral import mistral_shape
from modellink_rm.model.families.registry import FAMILIES
from modellink_rm.model.shape import ModelShape


def _ministral_shape(config: Config) -> ModelShape:
    return mistral_shape(config, reads_layer_types=True)


FAMILIES.add(
    Family(
        read_shape=_ministral_shape, tensors=LLAMA_TENSORS, classifier="MinistralForSequenceClassification"
    ),
    "ministral",
)
