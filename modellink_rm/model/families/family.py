"""The description of a model family."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch

from modellink_rm.model.families.tensors import TensorTable
from modellink_rm.model.layers.block import MakeLayer, decoder_layer
from modellink_rm.model.layers.embedding import TokenEmbedding
from modellink_rm.model.layers.norm import RMSNorm
from modellink_rm.model.layers.rotary import RotaryAngles
from modellink_rm.model.shape import ModelShape

Config = Mapping[str, Any]


def no_engine_fields(shape: ModelShape) -> Mapping[str, Any]:
    """No fields in addition to those of every decoder."""
    return {}


def no_logit_softcap(config: Config) -> float | None:
    """No softcap of a language model's logits."""
    return None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """One model_type of config.json: its shape, its tensors in the weights, and its parts.

    The fields from `embedding` on are for families with other parts than RMSNorm, SwiGLU and rotary
    positions.

    Attributes:
        read_shape: returns the shape that a config.json describes, and refuses what is not supported.
        tensors: names of the stored tensors, and the order of their rows.
        classifier: transformers' class with a `score`, which a written config.json names; "" for none.
        reward_token_field: field of config.json with the id of the token that this class appends to what its
            chat template writes, to read the score there; "" for none.
        final_norm_field: field of config.json that is false where the model has no final norm; "" where it
            always has one.
        embedding: token ids -> hidden states.
        rotary: rotary angles by position ids.
        layer: the specification of one layer.
        final_norm: the norm after the last layer.
        engine_fields: additional fields of megatron-core's configuration that the layers need.
        logit_softcap: the softcap of a language model's logits that a config.json gives; None for none.
    """

    read_shape: Callable[[Config], ModelShape]
    tensors: TensorTable
    classifier: str = ""
    reward_token_field: str = ""
    final_norm_field: str = ""
    embedding: type[TokenEmbedding] = TokenEmbedding
    rotary: type[RotaryAngles] = RotaryAngles
    layer: MakeLayer = decoder_layer
    final_norm: type[torch.nn.Module] = RMSNorm
    engine_fields: Callable[[ModelShape], Mapping[str, Any]] = no_engine_fields
    logit_softcap: Callable[[Config], float | None] = no_logit_softcap
