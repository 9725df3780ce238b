"""The device and the communication backend, decided once; the only file that asks for a GPU."""

import functools
import os
import shutil
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor

from modellink_rm.base.errors import UserError
from modellink_rm.base.log import info, warn_once


@dataclass(frozen=True)
class Platform:
    """Where tensors live and how processes talk.

    Attributes:
        device: this process's device.
        backend: backend of torch.distributed, "nccl" or "gloo".
        name: for messages.
        attention_backends: attention kernels that run here, fastest first.
    """

    device: torch.device
    backend: str
    name: str
    attention_backends: tuple[str, ...]

    @property
    def is_tested(self) -> bool:
        """Whether this package's tests run its kernels on every change, so that a run need not try them."""
        return is_cpu(self.device)

    def missing_compiler(self) -> str | None:
        """What torch.compile lacks here, or None."""
        if self.device.type == "cuda":
            return None if find_spec("triton") else "torch.compile needs the package triton"
        found = any(shutil.which(name) for name in (os.environ.get("CXX", "c++"), "g++", "clang++"))
        return None if found else "torch.compile needs a C++ compiler (g++ or clang++)"

    def synchronize(self) -> None:
        """Wait for the device to finish what was asked of it."""
        synchronize(self.device)

    def of_this_thread(self) -> AbstractContextManager[object]:
        """A block in which this thread computes on the device, as the one that detected it does anyhow.

        The current GPU, and the redirection of a host without one, are each thread's own.
        """
        if self.device.type == "cuda":
            return torch.cuda.device(self.device)
        from modellink_rm.base.cuda_on_cpu import redirected_thread

        return redirected_thread()

    def pinned(self, tensor: Tensor) -> Tensor:
        """The host tensor in pinned memory, which a GPU copies asynchronously; on a CPU the tensor itself."""
        if self.device.type != "cuda":
            return tensor
        with torch.cuda.device(self.device):  # a thread's own current device is the first GPU
            return tensor.pin_memory()


@functools.cache
def matmul_flops_per_second(device: torch.device, dtype: torch.dtype) -> float:
    """The highest speed of several square matrix products in `dtype`, under the present load of the device.

    The matrices grow until a product takes long enough to be timed; all together take about a fifth of a
    second. A process measures once, however many runs it makes.
    """
    num_products = 4 if device.type == "cuda" else 1  # between two waits for the device
    generator = torch.Generator(device)  # the run's own stays as it is
    size, best, matrix = 128, 0.0, None
    started = time.perf_counter()
    while time.perf_counter() - started < 0.15:
        if matrix is None:
            size *= 2
            matrix = torch.randn(size, size, dtype=dtype, device=device, generator=generator)
        synchronize(device)
        before = time.perf_counter()
        for _ in range(num_products):
            torch.mm(matrix, matrix)
        synchronize(device)
        seconds = time.perf_counter() - before
        best = max(best, num_products * 2 * size**3 / seconds)
        if seconds < 0.003 and size < 8192:
            matrix = None
    return best


def synchronize(device: torch.device) -> None:
    """Wait for the device to finish what was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def detect_platform(requested_backend: str | None = None) -> Platform:
    """The GPU of this process's local rank with nccl; without GPUs the CPU with gloo.

    Args:
        requested_backend: --distributed-backend; nccl without a GPU becomes gloo, with a warning.

    Raises:
        UserError: there are more processes on this node than GPUs.
    """
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        if device.index >= torch.cuda.device_count():
            raise UserError(
                f"each process needs its own GPU: this node runs {device.index + 1} processes or more, and "
                f"torch finds {torch.cuda.device_count()} GPUs; start fewer, or hide the GPUs "
                "(CUDA_VISIBLE_DEVICES=)"
            )
        torch.cuda.set_device(device)
        name = torch.cuda.get_device_name(device)
        info(f"platform: {name}, because torch finds a GPU")
        return Platform(device, requested_backend or "nccl", name, ("flash", "varlen", "flex", "sdpa"))
    if requested_backend == "nccl":
        warn_once("--distributed-backend nccl needs a GPU and there is none: gloo is used")
    from modellink_rm.base.cuda_on_cpu import redirect_cuda_to_cpu

    redirect_cuda_to_cpu()
    info("platform: CPU, because torch finds no GPU; megatron-core's CUDA calls go to the CPU")
    return Platform(torch.device("cpu"), "gloo", "a CPU", ("sdpa",))


def is_cpu(device: torch.device) -> bool:
    """Whether kernels of a CPU run there."""
    return device.type == "cpu"


def tensor_on(device: torch.device, values: np.ndarray) -> torch.Tensor:
    """The values on `device`; a GPU's queue of work is not waited for."""
    tensor = torch.from_numpy(values)
    if device.type != "cuda":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


def has_fused_weight_gradients() -> bool:
    """Whether apex's extension can fuse gradient accumulation with the matrix products, on a GPU."""
    if not torch.cuda.is_available() or find_spec("fused_weight_gradient_mlp_cuda") is None:
        return False
    info("gradient accumulation is fused with the matrix products, because apex's extension is installed")
    return True
