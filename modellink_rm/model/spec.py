"""What a model is: the value that travels whole through planning, building, loading and saving."""

from dataclasses import dataclass

from modellink_rm.model.shape import ModelShape


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A model but for its weights: everything that fixes which tensors it has and what they compute.

    Attributes:
        padded_vocab_size: rows of the embedding over all tensor-parallel ranks.
        post_layer_norm: whether the head reads hidden states after the final norm.
        head_bias: whether the head has a bias.
    """

    shape: ModelShape
    padded_vocab_size: int
    post_layer_norm: bool = True
    head_bias: bool = False
