"""Every private name of megatron-core and of torch that this package uses, each behind a function.

Checked with megatron-core 0.16.1 and torch 2.13. `tests/unit/base/test_megatron_compat.py` fails if one of
them disappears or changes its signature, or if another file uses one. The imports are inside the functions,
so importing this file costs nothing.
"""

import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

Shape = tuple[int, ...]


def cpu_flash_attention() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """torch's flash attention on a CPU, (forward, backward), with the log-sum-exp.

    `scaled_dot_product_attention` calls it on a CPU (torch 2.13) but returns only the output; attention over
    two parts of the keys can be merged only with their log-sum-exp.
    """
    import torch

    aten = torch.ops.aten
    return (
        aten._scaled_dot_product_flash_attention_for_cpu,
        aten._scaled_dot_product_flash_attention_for_cpu_backward,
    )


def onednn_product(states: "Tensor", weight: "Tensor") -> "Tensor":
    """states [..., in] times the transposed weight [out, in], by oneDNN; it has no gradients.

    torch 2.13, aten/src/ATen/native/mkldnn/Linear.cpp: what torch.compile calls in inference. `torch.matmul`
    takes MKL for float32, and no public function takes oneDNN without copying its input and output.
    """
    import torch

    output: Tensor = torch.ops.mkldnn._linear_pointwise(states, weight, None, "none", [], "")
    return output


def onednn_gate(states: "Tensor", gate: "Tensor", up: "Tensor") -> "Tensor":
    """silu(states gate^T) * (states up^T) as `onednn_product`, [..., f] of gate and up [f, in]."""
    import torch

    product = torch.ops.mkldnn._linear_pointwise
    gated: Tensor = product.binary(states, product(states, gate, None, "swish", [], ""), up, None, "mul")
    return gated


@contextmanager
def without_function_modes() -> Iterator[None]:
    """Within the block torch's operations are called directly (torch 2.9 to 2.13, overrides.py).

    The mode that answers the engine's calls of CUDA on a CPU costs as much as a small operation.
    """
    import torch

    with torch._C.DisableTorchFunction():
        yield


def use_expandable_segments() -> None:
    """Let torch's GPU allocator grow its segments, so that micro-batches of many lengths do not fragment it.

    torch 2.9 to 2.13, cuda/memory.py: PYTORCH_CUDA_ALLOC_CONF may have been read when torch was imported. The
    newer ones warn that the name will change.
    """
    from torch.cuda import memory

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        memory._set_allocator_settings("expandable_segments:True")


def bound_recompiles(limit: int) -> None:
    """Let torch.compile make `limit` variants of a function, and fail at one more.

    torch 2.13, _dynamo/config.py: by default the limit is 8, and beyond it the function runs uncompiled
    without a word; for FlexAttention that is a matrix of all tokens by all tokens.
    """
    from torch._dynamo import config

    config.recompile_limit = limit
    config.accumulated_recompile_limit = max(config.accumulated_recompile_limit, limit)
    config.fail_on_recompile_limit_hit = True


def mark_dynamic_rows(tensor: "Tensor") -> None:
    """Tell torch.compile that the first dimension differs from call to call (torch 2.9 to 2.13, _dynamo)."""
    from torch._dynamo import mark_dynamic

    mark_dynamic(tensor, 0)


def replace_cuda_rng_state(get: Callable[..., "Tensor"], set_: Callable[..., None]) -> None:
    """Make the engine read and set the GPU's random generator with these functions.

    megatron-core 0.16.1, tensor_parallel/random.py: its own functions bypass `torch.cuda.get_rng_state` and
    use CUDA's default generators, which a host without a GPU does not have.
    """
    from megatron.core.tensor_parallel import random

    random._get_cuda_rng_state = get
    random._set_cuda_rng_state = set_


def all_rng_states() -> tuple[Any, Any, Any]:
    """The states (CPU generator, GPU generator, the engine's named generators), for a checkpoint.

    megatron-core 0.16.1, tensor_parallel/random.py; the public functions cannot read a graph-safe GPU
    generator.
    """
    from megatron.core.tensor_parallel.random import _get_all_rng_states

    states: tuple[Any, Any, Any] = _get_all_rng_states()
    return states


def set_all_rng_states(cpu: Any, device: Any, tracker: Any) -> None:
    """Restore the states that `all_rng_states` returned."""
    from megatron.core.tensor_parallel.random import _set_all_rng_states

    _set_all_rng_states(cpu, device, tracker)


def allocate_optimizer_state(optimizer: Any) -> None:
    """Allocate the state of a distributed optimizer that has not stepped yet.

    megatron-core 0.16.1, optimizer/distrib_optimizer.py: the optimizer cannot describe, and so cannot load,
    a state that it has not allocated.
    """
    optimizer._init_optimizer_states_with_dummy_values()


def single_optimizers(optimizer: Any) -> list[Any]:
    """The optimizers that one of the engine's consists of, in its order; itself if it is a single one.

    megatron-core 0.16.1, optimizer/optimizer.py: only `ChainedOptimizer` has `chained_optimizers`.
    """
    return list(getattr(optimizer, "chained_optimizers", [optimizer]))


def linear_forward(linear: Any, states: "Tensor", weight: "Tensor", **settings: Any) -> "Tensor":
    """Apply a linear layer of the engine with a part of its weight.

    megatron-core 0.16.1, tensor_parallel/layers.py, `ColumnParallelLinear`: with its communication and its
    gradients of weight and input; `forward` accepts another weight too, but not these settings.
    """
    output: Tensor = linear._forward_impl(input=states, weight=weight, **settings)
    return output


def communicator_of_known_shapes(
    group: Any, config: Any, *, from_previous: "Iterator[Shape]", from_next: "Iterator[Shape]"
) -> Any:
    """The engine's messages between pipeline stages, of shapes that the receiver knows.

    megatron-core 0.16.1, pipeline_parallel/p2p_communication.py: where lengths vary it sends the shape before
    each message, and the receiver waits for the device to read it.

    Args:
        group: the pipeline's.
        from_previous: shapes of the messages of the stage before, in their order.
        from_next: of the stage after.
    """
    from megatron.core.pipeline_parallel.p2p_communication import P2PCommunicator

    class KnownShapes(P2PCommunicator):  # type: ignore[misc]  # the engine is not typed
        def _communicate_shapes(
            self, tensor_send_next: Any, tensor_send_prev: Any, recv_prev: bool, recv_next: bool
        ) -> "tuple[Shape | None, Shape | None]":
            return next(from_previous) if recv_prev else None, next(from_next) if recv_next else None

    return KnownShapes(group, config)


def use_weight_gradient(add: Callable[["Tensor", "Tensor", "Tensor"], None]) -> None:
    """Make the engine's linears add their weight gradients with this function, in place of apex's.

    megatron-core 0.16.1, tensor_parallel/layers.py: with `gradient_accumulation_fusion` it calls a function
    of apex's compiled extension, which it imports by name.

    Args:
        add: of a linear's input [t, in], the gradient of its output [t, out], and the buffer [out, in].
    """
    from megatron.core.tensor_parallel import layers

    layers.fused_weight_gradient_mlp_cuda = types.SimpleNamespace(
        wgrad_gemm_accum_fp32=add, wgrad_gemm_accum_fp16=add
    )
    layers._grad_accum_fusion_available = True


def scale_tensors(tensors: "Sequence[Tensor]", factor: float) -> None:
    """Multiply the tensors by a number, in place, in a few kernels on a GPU.

    torch 2.13, torch._foreach_mul_: what its own clipping calls, which wants the factor on the device.
    """
    import torch

    torch._foreach_mul_(list(tensors), factor)


def mlp_and_residual(layer: Any, hidden_states: "Tensor") -> "Tensor":
    """The second half of a transformer layer: norm, MLP and residual.

    megatron-core 0.16.1, transformer/transformer_layer.py, `TransformerLayer`: with its recomputation; only
    the whole layer is public.
    """
    output: Tensor = layer._forward_mlp(hidden_states)
    return output
