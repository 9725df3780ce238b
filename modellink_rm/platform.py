"""The device and the communication backend, decided once; the only file that asks for a GPU."""

import os
from dataclasses import dataclass

import numpy as np
import torch

from modellink_rm.errors import UserError
from modellink_rm.log import info, warn_once


@dataclass(frozen=True)
class Platform:
    """Where tensors live and how processes talk.

    Attributes:
        device: this process's device.
        backend: backend of torch.distributed, "nccl" or "gloo".
        name: as messages call it.
        attention_backends: attention kernels that run here, the fastest first.
    """

    device: torch.device
    backend: str
    name: str
    attention_backends: tuple[str, ...]

    def synchronize(self) -> None:
        """Wait for the device to finish what was asked of it."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def detect_platform(requested_backend: str | None = None) -> Platform:
    """The GPU of this process's local rank with nccl where there is one, else the CPU with gloo.

    Args:
        requested_backend: --distributed-backend; nccl without a GPU becomes gloo, with a warning.

    Raises:
        UserError: more processes on this node than GPUs.
    """
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        if device.index >= torch.cuda.device_count():
            raise UserError(
                f"a process needs a GPU of its own: this node runs {device.index + 1} or more and torch "
                f"finds {torch.cuda.device_count()}; start fewer, or hide the GPUs (CUDA_VISIBLE_DEVICES=)"
            )
        torch.cuda.set_device(device)
        name = torch.cuda.get_device_name(device)
        info(f"platform: {name}, because torch finds a GPU")
        return Platform(device, requested_backend or "nccl", name, ("flash", "varlen", "flex", "sdpa"))
    if requested_backend == "nccl":
        warn_once("--distributed-backend nccl needs a GPU and there is none: gloo is used")
    from modellink_rm.cuda_on_cpu import redirect_cuda_to_cpu

    redirect_cuda_to_cpu()
    info("platform: CPU, because torch finds no GPU; megatron-core's CUDA calls go to the CPU")
    return Platform(torch.device("cpu"), "gloo", "a CPU", ("sdpa",))


def tensor_on(device: torch.device, values: np.ndarray) -> torch.Tensor:
    """The values on `device`; a GPU's queue of work is not waited for."""
    tensor = torch.from_numpy(values)
    if device.type != "cuda":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)
