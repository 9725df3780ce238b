"""The specification of a model, which planning, building, loading and saving share."""

from dataclasses import dataclass

from modellink_rm.model.shape import ModelShape

# Names of the engine's parameters begin so: of a layer, followed by its number in the whole model, and of
# the reward head.
LAYER_PREFIX = "decoder.layers."
HEAD_PREFIX = "rm_head."


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A model without its weights: everything that determines its tensors and what they compute.

    Attributes:
        padded_vocab_size: rows of the embedding over all tensor-parallel ranks.
        post_layer_norm: whether the head reads hidden states after the final norm.
        head_bias: whether the head has a bias.
    """

    shape: ModelShape
    padded_vocab_size: int
    post_layer_norm: bool = True
    head_bias: bool = False
