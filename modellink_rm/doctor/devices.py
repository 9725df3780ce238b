"""The device of a run as this process would get it: GPUs, driver, measured rate of matrix products."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from modellink_rm.base.platform import Platform, is_cpu, matmul_flops_per_second, num_gpus
from modellink_rm.doctor.findings import Problem

# Dense bfloat16 products in TFLOP/s, from the data sheets; the first name that the GPU's contains counts.
SHEET_TFLOPS = {
    "GB200": 2500,
    "B200": 2250,
    "GH200": 989,
    "H200": 989,
    "H100 PCIe": 756,
    "H100 NVL": 835,
    "H100": 989,
    "H800": 989,
    "H20": 148,
    "A100": 312,
    "A800": 312,
    "A10G": 70,
    "A10": 125,
    "L40S": 362,
    "L40": 181,
    "L4": 121,
    "RTX 4090": 165,
    "RTX 3090": 71,
}
_LEAST_SHARE_OF_SHEET = 0.5
_LEAST_FREE_SHARE = 0.9
_AMPERE = (8, 0)


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU; memory in bytes."""

    name: str
    capability: tuple[int, int]
    memory: int
    free_memory: int


@dataclass(frozen=True, kw_only=True)
class Devices:
    """What a run would use.

    Attributes:
        device: "cuda" or "cpu".
        driver: the version of NVIDIA's kernel driver; None where there is none.
        cuda: the version of CUDA that torch was built for; None for a build for CPUs.
        nccl: the version of NCCL; None where there is none.
        matmul_flops_per_second: measured, by dtype.
    """

    device: str
    driver: str | None
    cuda: str | None
    nccl: str | None
    gpus: tuple[Gpu, ...]
    matmul_flops_per_second: dict[str, float]


def examine_devices(platform: Platform) -> Devices:
    """The platform's device and, on a GPU, all GPUs that this process sees."""
    has_gpu = not is_cpu(platform.device)
    return Devices(
        device=platform.device.type,
        driver=driver_version(),
        cuda=torch.version.cuda,
        nccl=".".join(map(str, torch.cuda.nccl.version()))  # type: ignore[no-untyped-call]
        if has_gpu
        else None,
        gpus=tuple(map(_examine_gpu, range(num_gpus()))),
        matmul_flops_per_second={
            str(dtype).removeprefix("torch."): matmul_flops_per_second(platform.device, dtype)
            for dtype in (torch.bfloat16, torch.float32)
        },
    )


def device_problems(devices: Devices) -> Iterator[Problem]:
    """What is wrong with the GPUs."""
    for number, gpu in enumerate(devices.gpus):
        if gpu.free_memory < _LEAST_FREE_SHARE * gpu.memory:
            used = (gpu.memory - gpu.free_memory) / 2**30
            yield Problem(
                what=f"{used:.0f} of {gpu.memory / 2**30:.0f} GiB of GPU {number} are in use already",
                remedy="end the processes that nvidia-smi shows, or choose other GPUs (CUDA_VISIBLE_DEVICES)",
            )
        if gpu.capability < _AMPERE:
            yield Problem(
                what=f"GPU {number} ({gpu.name}) has no bfloat16 products: --bf16 is slow on it",
                remedy="train in float32, or on a GPU of compute capability 8.0 or newer",
            )
    names = sorted({gpu.name for gpu in devices.gpus})
    if len(names) > 1:
        yield Problem(
            what=f"the GPUs differ ({', '.join(names)}): every step waits for the slowest",
            remedy="choose equal ones (CUDA_VISIBLE_DEVICES)",
        )
    sheet = next(
        (rate for name, rate in SHEET_TFLOPS.items() if devices.gpus and name in devices.gpus[0].name), None
    )
    measured = devices.matmul_flops_per_second.get("bfloat16", 0.0) / 1e12
    if sheet is not None and measured < _LEAST_SHARE_OF_SHEET * sheet:
        yield Problem(
            what=f"bfloat16 products run at {measured:.0f} TFLOP/s, below half of the data sheet's {sheet}",
            remedy="nvidia-smi -q shows what slows the GPU down: other processes, its power limit, its "
            "temperature, MIG",
        )


def driver_version() -> str | None:
    """As the kernel module says: "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  ..."."""
    try:
        first = Path("/proc/driver/nvidia/version").read_text().splitlines()[0]
    except (OSError, IndexError):
        return None
    return next((word for word in first.split() if word[:1].isdigit() and "." in word), first)


def _examine_gpu(number: int) -> Gpu:
    free, total = torch.cuda.mem_get_info(number)
    return Gpu(
        name=torch.cuda.get_device_name(number),
        capability=torch.cuda.get_device_capability(number),
        memory=total,
        free_memory=free,
    )
