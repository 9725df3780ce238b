"""The elementwise operations of a layer: norm, rotation and gate, each a function that can be compiled."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from modellink_rm.base.megatron_compat import bound_recompiles, mark_dynamic_rows

CLAMPED_SWIGLU_LIMIT = 7.0
CLAMPED_SWIGLU_ALPHA = 1.702
# Of one function: by sizes, dtypes, and whether there are gradients. Reaching it is an error.
_MOST_VARIANTS = 64
F = TypeVar("F", bound=Callable[..., Any])


def rms_norm(hidden_states: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Root-mean-square norm over the last dimension (Zhang and Sennrich 2019, arXiv 1910.07467)."""
    return functional.rms_norm(hidden_states, (weight.shape[0],), weight, eps)


def rms_norm_for_inference(hidden_states: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`rms_norm` on a CPU without gradients: squares and their sum in one pass over memory, not two."""
    norms: Tensor = torch.linalg.vector_norm(hidden_states, dim=-1, keepdim=True)
    scales = norms.square_().div_(hidden_states.shape[-1]).add_(eps).rsqrt_()
    return (hidden_states * scales).mul_(weight)


def offset_rms_norm(hidden_states: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`rms_norm` with the weight 1 + `weight`, in float32 as in Gemma: bfloat16 would round the sum."""
    normed = functional.rms_norm(hidden_states.float(), (weight.shape[0],), 1 + weight.float(), eps)
    return normed.to(hidden_states.dtype)


def offset_rms_norm_for_inference(hidden_states: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`offset_rms_norm` as `rms_norm_for_inference`."""
    return rms_norm_for_inference(hidden_states, 1 + weight, eps)


def geglu(gate_and_up: Tensor) -> Tensor:
    """gelu(gate) * up with the tanh form of gelu, [..., f] of [..., 2f] (Shazeer 2020, arXiv 2002.05202)."""
    gate, up = gate_and_up.chunk(2, dim=-1)
    return functional.gelu(gate, approximate="tanh") * up


def swiglu(gate_and_up: Tensor) -> Tensor:
    """silu(gate) * up, [..., f] of [..., 2f] (Shazeer 2020, arXiv 2002.05202)."""
    gate, up = gate_and_up.chunk(2, dim=-1)
    activated = functional.silu(gate)
    # A product in place is memory that a CPU need not map anew; backward passes want both factors.
    return activated * up if torch.is_grad_enabled() else activated.mul_(up)


def clamped_swiglu(gate_and_up: Tensor) -> Tensor:
    """gate * sigmoid(1.702 gate) * (up + 1), both clamped to 7, [..., f] of [..., 2f].

    As in gpt-oss (transformers 5.23, models/gpt_oss, `GptOssExperts._apply_gate`); the gate has no lower
    bound.
    """
    gate, up = gate_and_up.chunk(2, dim=-1)
    gate, up = gate.clamp(max=CLAMPED_SWIGLU_LIMIT), up.clamp(-CLAMPED_SWIGLU_LIMIT, CLAMPED_SWIGLU_LIMIT)
    return gate * torch.sigmoid(CLAMPED_SWIGLU_ALPHA * gate) * (up + 1)


def rotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding of the first 2w of d channels, halves of which are pairs.

    Args:
        states: [t, heads, d], queries or keys.
        cos: [t, 1, w], of each token's angles.
        sin: [t, 1, w].
    """
    width = cos.shape[-1]
    first, second, rest = states[..., :width], states[..., width : 2 * width], states[..., 2 * width :]
    return torch.cat((first * cos - second * sin, second * cos + first * sin, rest), dim=-1)


def rotate_interleaved(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`rotate` with pairs of neighbouring channels, as in GLM."""
    width = cos.shape[-1]
    turned = states[..., : 2 * width]
    first, second = turned[..., 0::2], turned[..., 1::2]
    rotated = torch.stack((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return torch.cat((rotated.flatten(-2), states[..., 2 * width :]), dim=-1)


def rotate_to_neighbours(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`rotate` on a CPU without gradients, whose pairs then lie side by side.

    As products of complex numbers these are two passes over memory, not seven. Channels of queries and keys
    in the same order have the same products.
    """
    width = cos.shape[-1]
    pairs = torch.complex(states[..., :width], states[..., width : 2 * width])
    rotated = torch.view_as_real(pairs.mul_(torch.complex(cos, sin))).flatten(-2)
    rest = states[..., 2 * width :]
    return torch.cat((rotated, rest), dim=-1) if rest.shape[-1] else rotated


@functools.cache
def compiled(function: F) -> F:
    """An elementwise function compiled to one kernel: one pass over memory, not one per operation.

    One variant serves all numbers of rows, the first dimension of every tensor of two dimensions or more; the
    other sizes are constants of the kernel.
    """
    bound_recompiles(_MOST_VARIANTS)
    kernel: Callable[..., Any] = torch.compile(function, dynamic=False)

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        rows = [one for one in arguments if isinstance(one, Tensor) and one.dim() > 1]
        if any(one.shape[0] < 2 for one in rows):  # torch.compile makes a kernel of its own for 0 and for 1
            return function(*arguments)
        for one in rows:
            mark_dynamic_rows(one)
        return kernel(*arguments)

    return call  # type: ignore[return-value]


@functools.cache
def compiled_for_all_sizes(function: F) -> F:
    """The function compiled so that no size is a constant of the kernel: FlexAttention has lengths inside."""
    bound_recompiles(_MOST_VARIANTS)
    result: F = torch.compile(function, dynamic=True)  # type: ignore[assignment]
    return result
