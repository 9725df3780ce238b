"""Floating-point operations of a training step, from the model's shape and the packed tokens."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Shape:
    """What matrix products of a Llama-shaped model depend on."""

    hidden_size: int
    ffn_hidden_size: int
    num_layers: int
    num_heads: int
    num_groups: int
    head_dim: int
    vocab_size: int = 0

    @property
    def key_value_weights(self) -> int:
        """Weights of one layer's key and value projections."""
        return 2 * self.hidden_size * self.num_groups * self.head_dim

    @property
    def other_weights(self) -> int:
        """Weights of one layer's query and output projections and of its gated MLP."""
        heads = 2 * self.hidden_size * self.num_heads * self.head_dim
        return heads + 3 * self.hidden_size * self.ffn_hidden_size


@dataclass(frozen=True)
class Stretch:
    """Tokens that see themselves, causally, and `prefix` tokens before them."""

    length: int
    prefix: int = 0

    @property
    def num_seen(self) -> int:
        """Tokens seen, summed over the stretch's tokens."""
        return self.length * self.prefix + self.length * (self.length + 1) // 2


def read_shape(directory: Path) -> Shape:
    """The shape in a Hugging Face directory's config.json."""
    config = json.loads((directory / "config.json").read_text())
    heads = config["num_attention_heads"]
    return Shape(
        hidden_size=config["hidden_size"],
        ffn_hidden_size=config["intermediate_size"],
        num_layers=config["num_hidden_layers"],
        num_heads=heads,
        num_groups=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or config["hidden_size"] // heads,
        vocab_size=config["vocab_size"],
    )


def head_flops(shape: Shape, num_tokens: int) -> int:
    """Operations of a language model's head in one forward and backward pass over predicted tokens."""
    return 3 * 2 * shape.hidden_size * shape.vocab_size * num_tokens


def training_flops(
    shape: Shape, stretches: Iterable[Stretch], *, scored_see: Iterable[int] | None = None
) -> int:
    """Operations of one forward and backward pass: 2 a multiplied weight, and twice that backward.

    Attention scores and weighted values cost 2 each per head dimension and seen token. Embedding, norms,
    rotary angles, softmax, the head, and recomputation in the backward pass are not counted.

    Args:
        stretches: all stored tokens, without padding.
        scored_see: number of tokens that each scored token sees, if the last layer computes queries,
            attention and MLP only for scored tokens; None if it computes them for all tokens.
    """
    stretches = list(stretches)
    num_tokens = sum(stretch.length for stretch in stretches)
    num_seen = sum(stretch.num_seen for stretch in stretches)
    weights = shape.key_value_weights + shape.other_weights
    attention = 4 * shape.num_heads * shape.head_dim
    layer = 2 * weights * num_tokens + attention * num_seen
    last = layer
    if scored_see is not None:
        scored_see = list(scored_see)
        last = 2 * shape.key_value_weights * num_tokens + 2 * shape.other_weights * len(scored_see)
        last += attention * sum(scored_see)
    return 3 * ((shape.num_layers - 1) * layer + last)
