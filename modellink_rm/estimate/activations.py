"""Bytes that a layer keeps of each token between its forward and its backward pass.

They are counted from what the operations of a layer save for autograd, each storage once; the tests compare
them with what torch saves.
"""

from dataclasses import dataclass
from functools import lru_cache

from modellink_rm.config.parallel import ParallelConfig
from modellink_rm.model.families.registry import FAMILIES
from modellink_rm.model.shape import ModelShape


@dataclass(frozen=True, kw_only=True)
class Operations:
    """How the operations of a layer run, as far as it decides what they keep.

    Attributes:
        element_bytes: of a number of the layers' dtype.
        has_fused_norms: a norm keeps its input alone; in parts, as on a CPU, it keeps that and the normed
            states before its weight, both in float32.
        has_fused_gates: a gate keeps its input alone, not the activated half too.
        key_copies: keys and values in the order of attention's pieces, in which a shared prompt stands before
            each of its responses, for each of those of the tokens; None where attention keeps no such copies.
        recomputes_norms: the outputs of norms are computed again in the backward pass.
        recomputes_gates: those of gates are.
    """

    element_bytes: int
    has_fused_norms: bool
    has_fused_gates: bool
    key_copies: float | None
    recomputes_norms: bool = False
    recomputes_gates: bool = False

    @property
    def kept_by_norm(self) -> float:
        """Numbers of the layers' dtype that a norm keeps of each of its channels."""
        return 1 if self.has_fused_norms else 2 * 4 / self.element_bytes

    @property
    def kept_by_gate(self) -> int:
        """Numbers that a gate keeps of each of its channels: gate and up, the activated gate, the product."""
        if self.recomputes_gates:
            return 2
        return 3 if self.has_fused_gates else 4


# Of the sums of attention's weights.
_FLOAT32 = 4


@lru_cache(maxsize=4096)
def bytes_of_layer(shape: ModelShape, layer: int, parallel: ParallelConfig, operations: Operations) -> float:
    """Bytes that one process keeps of each token of a micro-batch for layer `layer`, its input included.

    The last layer keeps states of all tokens for its keys and values alone; what scored rows keep is left
    out. Tokens are those of the whole sequence, also where several processes share it.
    """
    share = 1 / parallel.context_parallel_size
    norm = operations.kept_by_norm
    has_input_norm, num_post_norms, num_head_norms = _norms(shape, layer)
    rows = shape.hidden_size * share / _divisor_of_rows(parallel)
    # With what the projections read: the output of the norm, or their own input.
    before = rows if not has_input_norm else (norm + (not operations.recomputes_norms)) * rows
    if layer == shape.num_layers - 1 and not _is_whole(shape, layer):
        return operations.element_bytes * (before + _keys(shape, parallel, operations))
    after = before + num_post_norms * norm * rows
    query, key = _widths(shape, parallel)
    head_norms = num_head_norms * norm * (query + key) / 2 * share
    attention = _keys(shape, parallel, operations) + _queries(shape, parallel, operations)
    numbers = before + after + head_norms + attention
    sums = _FLOAT32 * shape.num_attention_heads / parallel.tensor_model_parallel_size * share
    return operations.element_bytes * numbers + sums + _mlp(shape, layer, parallel, operations)


def bytes_of_input(shape: ModelShape, parallel: ParallelConfig, operations: Operations) -> float:
    """Bytes that one process keeps of each token for a layer that is recomputed: its input."""
    return (
        operations.element_bytes
        * shape.hidden_size
        / parallel.context_parallel_size
        / _divisor_of_rows(parallel)
    )


def bytes_of_gate_gradient(shape: ModelShape, parallel: ParallelConfig, operations: Operations) -> float:
    """Bytes of each token of the gradient of the widest gate's input, the largest of a backward pass."""
    widths = [2 * shape.ffn_hidden_size / parallel.tensor_model_parallel_size]
    if shape.experts is not None:
        widths.append(
            2 * shape.experts.top_k * shape.experts.ffn_hidden_size / parallel.tensor_model_parallel_size
        )
    return operations.element_bytes * max(widths) / parallel.context_parallel_size


def _is_whole(shape: ModelShape, layer: int) -> bool:
    """Whether the last layer is computed for all tokens."""
    return shape.is_sparse(layer) and shape.experts is not None and shape.experts.balances


def _divisor_of_rows(parallel: ParallelConfig) -> int:
    """Processes over which norms and residuals are divided by tokens."""
    return parallel.tensor_model_parallel_size if parallel.sequence_parallel else 1


def _norms(shape: ModelShape, layer: int) -> tuple[bool, int, int]:
    """Whether a norm precedes attention; norms after attention and MLP, and of queries and keys."""
    entries = FAMILIES[shape.family].tensors.layer
    names = [entry.engine for entry in entries if entry.is_in(shape, layer)]
    return (
        "input_layernorm" in names,
        sum(name.endswith("_bda.norm") for name in names),
        sum(name in ("self_attention.q_layernorm", "self_attention.k_layernorm") for name in names),
    )


def _widths(shape: ModelShape, parallel: ParallelConfig) -> tuple[float, float]:
    """Channels of the queries, and of the keys, that one process computes."""
    tp = parallel.tensor_model_parallel_size
    if shape.latent is not None:  # kernels want keys and values of one size
        width = max(shape.latent.head_channels, shape.latent.value_channels)
        return (shape.num_attention_heads * width / tp,) * 2
    channels = shape.kv_channels
    return shape.num_attention_heads * channels / tp, max(shape.num_query_groups / tp, 1) * channels


def _keys(shape: ModelShape, parallel: ParallelConfig, operations: Operations) -> float:
    """Numbers of each token that attention keeps for its keys and values."""
    _, key = _widths(shape, parallel)
    if parallel.context_parallel_size > 1:  # of all tokens, gathered
        kept = 2 * key
    elif operations.key_copies is not None:
        kept = 2 * key * operations.key_copies
    elif shape.latent is not None:  # made anew of the latent vectors
        kept = 2 * key
    else:
        kept = 3 * key  # rotated keys; values with the keys that were computed beside them
    return kept + _latents(shape, parallel, operations)


def _latents(shape: ModelShape, parallel: ParallelConfig, operations: Operations) -> float:
    """Numbers of each token that latent attention keeps of the small vectors."""
    if shape.latent is None:
        return 0.0
    latent, norm = shape.latent, operations.kept_by_norm
    vectors = latent.key_value_rank + (latent.query_rank or 0)
    kept = (norm + 1) * vectors + latent.rotary_channels
    return kept / parallel.context_parallel_size / _divisor_of_rows(parallel)


def _queries(shape: ModelShape, parallel: ParallelConfig, operations: Operations) -> float:
    """Numbers of each token that attention keeps for its queries and its output."""
    query, key = _widths(shape, parallel)
    kept = 2 * query
    if shape.latent is not None:
        if shape.latent.value_channels < shape.latent.head_channels:  # the output without padding
            values = shape.num_attention_heads * shape.latent.value_channels
            kept += values / parallel.tensor_model_parallel_size
    elif parallel.context_parallel_size == 1 and operations.key_copies is None:
        # One tensor with the values, which are kept; where processes share a key head, that of all of them.
        is_shared = shape.num_query_groups < parallel.tensor_model_parallel_size
        kept += query * parallel.tensor_model_parallel_size if is_shared else query
        if is_shared:
            kept += 2 * (shape.num_query_groups - 1) * key
    return kept / parallel.context_parallel_size


def _mlp(shape: ModelShape, layer: int, parallel: ParallelConfig, operations: Operations) -> float:
    """Bytes of each token that an MLP, or experts, keep beside their input."""
    size, gate = operations.element_bytes, operations.kept_by_gate
    share, tp = 1 / parallel.context_parallel_size, parallel.tensor_model_parallel_size
    experts = shape.experts
    if experts is None or not shape.is_sparse(layer):
        return size * gate * shape.ffn_hidden_size / tp * share
    # Each token's copies, one for each part of each of its experts, what these keep, and their outputs.
    copies = parallel.expert_tensor_parallel_size + 1
    of_experts = size * experts.top_k * (copies * shape.hidden_size + gate * experts.ffn_hidden_size) / tp
    # The router computes in float32: logits, probabilities; in training the shares that it adds up.
    of_router = 4 * 3 * experts.number + (4 * shape.hidden_size if size < 4 else 0)
    of_shared = size * gate * experts.shared_ffn_hidden_size / tp
    if experts.has_shared_gate:
        of_shared += size * shape.hidden_size
    return (of_experts + of_router / _divisor_of_rows(parallel) + of_shared) * share
