"""Floating-point operations of a batch's matrix products; a multiplication and an addition count as two."""

import numpy as np

from modellink_rm.batching.batch import Batch
from modellink_rm.model.shape import ModelShape


def training_flops(
    shape: ModelShape, batch: Batch, *, trained_share: float = 1.0, trains_weights: bool = True
) -> int:
    """Model FLOPs of a forward and a backward pass over all processes that share the model.

    The backward pass needs two products for each one of the forward pass (Kaplan et al. 2020, arXiv
    2001.08361, section 2.1), but one where the weight is not trained. Neither recomputation nor padding is
    counted, nor adapters.

    Args:
        trained_share: of the layers; the backward pass ends at the first one that is trained.
        trains_weights: False where adapters are trained in their place.
    """
    forward = forward_flops(shape, batch)
    if not trains_weights:
        return 2 * forward + _flops_of_seen(shape, batch)
    return forward + round(2 * trained_share * forward)


def forward_flops(shape: ModelShape, batch: Batch) -> int:
    """Model FLOPs of a forward pass: linear layers, attention and the head.

    For each token a layer takes 2 h (q + 2 kv) for the projections to queries, keys and values, 2 q h
    for the attention output, 6 h f for the gated MLP, and 4 q for each token that it sees, in the layer's
    window if it has one (scores and weighted values). Experts take 6 h f for each one that computes the
    token, and 2 h E for the router of E. Latent attention has products of other sizes. The last layer
    computes keys and values of all tokens, the rest for scored tokens only unless its router is balanced over
    all of them. A language model takes 2 h v for each token of an answer, of the v of the vocabulary.
    """
    hidden = shape.hidden_size
    keys_and_values, output, _ = _attention_flops(shape)
    num_scored = len(set(batch.scored_positions))
    num_outputs = num_scored
    if batch.answers is not None:
        num_outputs = shape.vocab_size * len(batch.answers.token_ids)
    num_tokens = batch.num_computed_tokens
    last = shape.num_layers - 1
    is_whole = _is_whole(shape)
    return (
        shape.num_layers * num_tokens * keys_and_values
        + sum(num_tokens * (output + _mlp_flops(shape, layer)) for layer in range(last))
        + (num_tokens if is_whole else num_scored) * (output + _mlp_flops(shape, last))
        + _flops_of_seen(shape, batch)
        + 2 * hidden * num_outputs
    )


def _is_whole(shape: ModelShape) -> bool:
    """Whether the last layer is computed for all tokens."""
    return shape.is_sparse(shape.num_layers - 1) and shape.experts is not None and shape.experts.balances


def _flops_of_seen(shape: ModelShape, batch: Batch) -> int:
    """Of the products of queries with keys, and of weights with values, which have no weights of a model."""
    *windows, last_window = shape.windows or (None,) * shape.num_layers
    seen = sum(num_seen(batch, window) * windows.count(window) for window in set(windows))
    of_last = (num_seen if _is_whole(shape) else num_seen_by_scored)(batch, last_window)
    return _attention_flops(shape)[2] * (seen + of_last)


def _attention_flops(shape: ModelShape) -> tuple[int, int, int]:
    """FLOPs of a token's keys and values, of its queries and output, and of each token that it sees."""
    hidden, heads, latent = shape.hidden_size, shape.num_attention_heads, shape.latent
    if latent is None:
        queries = heads * shape.kv_channels
        return 4 * hidden * shape.num_query_groups * shape.kv_channels, 4 * hidden * queries, 4 * queries
    rank, values = latent.key_value_rank, heads * latent.value_channels
    down = hidden * (rank + latent.rotary_channels)
    queries = heads * latent.head_channels
    of_queries = hidden * queries
    if latent.query_rank is not None:
        of_queries = latent.query_rank * (hidden + queries)
    return (
        2 * (down + rank * (heads * latent.plain_channels + values)),
        2 * (of_queries + hidden * values),
        2 * (queries + values),
    )


def _mlp_flops(shape: ModelShape, layer: int) -> int:
    """FLOPs of a token in the MLP or the experts of a layer."""
    hidden, experts = shape.hidden_size, shape.experts
    if experts is None or not shape.is_sparse(layer):
        return 6 * hidden * shape.ffn_hidden_size
    width = experts.top_k * experts.ffn_hidden_size + experts.shared_ffn_hidden_size
    return 6 * hidden * width + 2 * hidden * (experts.number + experts.has_shared_gate)


def num_seen(batch: Batch, window: int | None = None) -> int:
    """Tokens that each token sees, including itself and its prefix, summed over all tokens but padding."""
    segments = batch.segments[:-1] if batch.num_padding else batch.segments

    def of_first(count: int) -> int:
        """Of the tokens at the first `count` positions, each of which sees one more than the one before."""
        growing = count if window is None else min(count, window)
        return growing * (growing + 1) // 2 + (count - growing) * growing

    return sum(
        of_first(segment.prefix_length + segment.end - segment.start) - of_first(segment.prefix_length)
        for segment in segments
    )


def num_seen_by_scored(batch: Batch, window: int | None = None) -> int:
    """Tokens that each scored token sees, summed over scored tokens."""
    positions = np.unique(np.array(batch.scored_positions, dtype=np.int64))
    starts = np.array([segment.start for segment in batch.segments])
    prefixes = np.array([segment.prefix_length for segment in batch.segments])
    numbers = np.searchsorted(starts, positions, side="right") - 1
    counts = prefixes[numbers] + positions - starts[numbers] + 1
    return int((counts if window is None else np.minimum(counts, window)).sum())
