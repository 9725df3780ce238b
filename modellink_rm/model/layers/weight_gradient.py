"""Weight gradients added to their float32 buffers by the product that computes them."""

import functools

import torch
from torch import Tensor

from modellink_rm.base.log import info
from modellink_rm.base.megatron_compat import use_weight_gradient
from modellink_rm.base.platform import has_fused_weight_gradients, is_cpu


def add_weight_gradient(states: Tensor, gradient: Tensor, total: Tensor) -> None:
    """Add gradient^T states to `total`, without a tensor between.

    Otherwise the gradient of a bfloat16 weight is rounded to bfloat16, written, read and added.

    Args:
        states: [t, in], the linear's input.
        gradient: [t, out], of its output, with the dtype of `states`.
        total: [out, in], that dtype or float32.
    """
    if total.dtype == states.dtype:
        total.addmm_(gradient.t(), states)
    else:
        torch.addmm(total, gradient.t(), states, out_dtype=total.dtype, out=total)


def mark_gradient_as_added(weight: Tensor) -> None:
    """Tell the engine that a weight's gradient is in its `main_grad` already.

    The engine's hook runs next. It must not add, but with --overlap-grad-reduce it requires a gradient: one
    expanded number takes no memory.
    """
    weight.grad_added_to_main_grad = True  # type: ignore[attr-defined]
    weight.grad = weight.new_zeros(()).expand_as(weight)


def fuse_weight_gradients(device: torch.device, dtype: torch.dtype) -> bool:
    """Make the engine's linears add their weight gradients by one product; return whether they can.

    A CPU keeps the numbers of separate products, and apex's extension is used where it is installed.
    """
    if is_cpu(device):
        return False
    if has_fused_weight_gradients():
        return True
    if not _works(device, dtype):
        return False
    use_weight_gradient(add_weight_gradient)
    return True


@functools.cache
def _works(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether this torch has the product, tried on small numbers, which are exact in any dtype."""
    states = torch.eye(16, dtype=dtype, device=device)
    total = torch.ones(16, 16, dtype=torch.float32, device=device)
    try:
        add_weight_gradient(states, states, total)
    except (NotImplementedError, RuntimeError, TypeError) as error:
        # This torch has none for the device, for these dtypes, or at all.
        info(f"weight gradients: rounded before they are added up, because {str(error).splitlines()[0]}")
        return False
    return torch.equal(total, torch.eye(16, dtype=torch.float32, device=device) + 1)
