"""Bytes of activations that a layer keeps for its backward pass.

`tests/fake_cuda` holds the formulas of a GPU to what a step keeps there, `tests/unit/model` those of a CPU.
"""

from dataclasses import dataclass

from modellink_rm.model.shape import ModelShape

_FLOAT32 = 4


@dataclass(frozen=True, kw_only=True)
class Keeping:
    """What decides how much a layer keeps.

    Attributes:
        element_size: bytes of an element of the layers: 2 for bfloat16, 4 for float32.
        is_on_gpu: with the kernels of a GPU, which read keys and values of each piece in its own copy; else
            those of a CPU.
        compiles_elementwise: whether norm, rotation and gate are compiled.
        tp_size: processes that share each layer's matrices.
        divides_rows: whether they also share the tokens of norms and residuals (sequence parallelism).
        recomputes_norms: whether the outputs of norms are computed anew (`PrecisionConfig`).
        recomputes_gates: whether those of gates are.
        keys_per_token: keys that the attention kernel of a GPU copies, for each token of this process: above
            1 where responses share a prompt, whose keys are copied for each of them.
    """

    element_size: int
    is_on_gpu: bool
    compiles_elementwise: bool = False
    tp_size: int = 1
    divides_rows: bool = False
    recomputes_norms: bool = False
    recomputes_gates: bool = False
    keys_per_token: float = 1.0


def kept_per_token(shape: ModelShape, keeping: Keeping) -> float:
    """Bytes that a layer of a dense model keeps for each token of this process.

    The layer's own input is among them; the last layer keeps `kept_per_token_by_last`.
    """
    query_heads, key_heads = _heads(shape, keeping)
    queries, keys = query_heads * shape.kv_channels, key_heads * shape.kv_channels
    elements = 2 * queries + _kept_of_gate(keeping) * shape.ffn_hidden_size / keeping.tp_size
    if keeping.is_on_gpu:
        elements += 2 * keys * keeping.keys_per_token
    else:
        elements += queries + 3 * keys  # the projection whole, and the rotated keys
    log_sum_exp = _FLOAT32 * query_heads
    return 2 * _kept_by_norm(shape, keeping) + elements * keeping.element_size + log_sum_exp


def kept_per_token_by_last(shape: ModelShape, keeping: Keeping) -> float:
    """Bytes that the last layer, computed for scored tokens only, keeps for each token of this process."""
    keys = _heads(shape, keeping)[1] * shape.kv_channels
    copies = 2 * keeping.keys_per_token if keeping.is_on_gpu else 3
    return _kept_by_norm(shape, keeping) + copies * keys * keeping.element_size


def _heads(shape: ModelShape, keeping: Keeping) -> tuple[int, int]:
    """Query heads and key heads of this process."""
    return shape.num_attention_heads // keeping.tp_size, max(1, shape.num_query_groups // keeping.tp_size)


def _kept_by_norm(shape: ModelShape, keeping: Keeping) -> float:
    """Bytes of a norm's input and output for each token of this process.

    The parts of which a CPU computes a norm keep the input and the normed values in float32.
    """
    rows = 1 / keeping.tp_size if keeping.divides_rows else 1.0
    each = keeping.element_size if keeping.is_on_gpu or keeping.compiles_elementwise else 2 * _FLOAT32
    if not keeping.recomputes_norms:
        each += keeping.element_size
    return rows * (each * shape.hidden_size + _FLOAT32)


def _kept_of_gate(keeping: Keeping) -> int:
    """Elements for each channel of the MLP: gate and up, the activated gate unless compiled, the product."""
    if keeping.recomputes_gates:
        return 2
    return 3 if keeping.compiles_elementwise else 4
