"""Run megatron-core, which names "cuda" in many places, on a host without a GPU.

megatron-core 0.16.1 hard-codes CUDA devices, streams and random states in its schedules,
optimizers and layers. `redirect_cuda_to_cpu` redirects exactly those calls to the CPU; only
`modellink_rm.base.platform` calls it, and never if there is a GPU.
"""

import functools
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from modellink_rm.base.megatron_compat import replace_cuda_rng_state

CPU = torch.device("cpu")
_thread = threading.local()  # torch's function modes are each thread's own


class _CudaDevicesAreTheCpu(TorchFunctionMode):
    """Map `device="cuda..."` arguments to the CPU in every torch call.

    `Tensor.cuda()` returns the tensor itself, and `Tensor.type()` answers with the CUDA spelling,
    which megatron-core's optimizers compare with ("torch.cuda.FloatTensor").
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.Tensor.cuda:
            return args[0]
        kwargs = kwargs or {}
        if func is torch.Tensor.type and len(args) == 1 and not kwargs:
            return func(*args).replace("torch.", "torch.cuda.", 1)
        if "device" in kwargs and _is_cuda(kwargs["device"]):
            kwargs = {**kwargs, "device": CPU}
        return func(*args, **kwargs)


def _is_cuda(device: Any) -> bool:
    return (isinstance(device, str) and device.startswith("cuda")) or (
        isinstance(device, torch.device) and device.type == "cuda"
    )


@functools.cache
def redirect_cuda_to_cpu() -> None:
    """Answer megatron-core's CUDA calls with the CPU, for the rest of this process."""
    assert not torch.cuda.is_available(), "redirect_cuda_to_cpu is for hosts without a GPU"
    from megatron.core.tensor_parallel import random as engine_random

    def cpu_rng_state(*args: Any, **kwargs: Any) -> torch.Tensor:
        return torch.get_rng_state()

    def set_cpu_rng_state(new_state: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        torch.set_rng_state(new_state)

    cuda: Any = torch.cuda
    cuda.current_device = lambda: CPU
    cuda.synchronize = lambda device=None: None
    cuda.manual_seed = torch.manual_seed
    cuda.get_rng_state = cpu_rng_state
    cuda.set_rng_state = set_cpu_rng_state
    replace_cuda_rng_state(cpu_rng_state, set_cpu_rng_state)
    # The engine warns when the CPU's generator moved within the GPU's context: here they are one.
    logging.getLogger(engine_random.__name__).setLevel(logging.ERROR)
    _CudaDevicesAreTheCpu().__enter__()  # type: ignore[no-untyped-call]
    _thread.is_redirected = True


@contextmanager
def redirected_thread() -> Iterator[None]:
    """Within the block this thread, too, calls the CPU where it names "cuda"."""
    redirect_cuda_to_cpu()
    if getattr(_thread, "is_redirected", False):
        yield
        return
    _thread.is_redirected = True
    try:
        with _CudaDevicesAreTheCpu():
            yield
    finally:
        _thread.is_redirected = False
