"""Shapes of published models."""

import dataclasses
import json
from pathlib import Path

from modellink_rm.model.families.registry import shape_from_config
from modellink_rm.model.shape import ModelShape
from modellink_rm.model.spec import ModelSpec

CONFIGS = Path(__file__).parents[2] / "fixtures" / "configs"


def published_shape(name: str) -> ModelShape:
    """The shape that a published config.json describes."""
    return shape_from_config(json.loads((CONFIGS / f"{name}.json").read_text()))


LLAMA_8B = published_shape("llama-3.1-8b-instruct")
# As meta-llama/Llama-3.1-70B-Instruct's config.json.
LLAMA_70B = dataclasses.replace(
    LLAMA_8B, num_layers=80, hidden_size=8192, ffn_hidden_size=28672, num_attention_heads=64
)


def spec_of(shape: ModelShape) -> ModelSpec:
    """A model without padding of its vocabulary."""
    return ModelSpec(shape=shape, padded_vocab_size=shape.vocab_size)
