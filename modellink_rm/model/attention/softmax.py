"""How the products of queries and keys become weights."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class Softmax:
    """The settings of one layer's softmax over the products of a query with its keys.

    Attributes:
        scale: factor of the products; the results are logits.
        dropout: probability that a weight is dropped.
        softcap: a logit x becomes softcap * tanh(x / softcap) (Gemma 2, arXiv 2408.00118).
        sinks: [heads], a logit of each head that takes a share of the weights and has no value (gpt-oss,
            arXiv 2508.10925).
    """

    scale: float
    dropout: float = 0.0
    softcap: float | None = None
    sinks: Tensor | None = None
