"""The device and the communication backend, decided once; the only file that asks for a GPU."""

import functools
import os
import shutil
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from modellink_rm.base.errors import UserError
from modellink_rm.base.log import info
from modellink_rm.base.megatron_compat import use_expandable_segments

# oneDNN compiles a product for each number of rows that it meets, which takes as long as a part of it.
ONEDNN_ROWS = 32
# Rows of a matrix product from which on more are no faster on a CPU; a multiple of `ONEDNN_ROWS`.
_ROWS_OF_A_PRODUCT = 1024
_LARGEST_PRODUCT = 8192


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

    @property
    def hardware(self) -> str:
        """The device as its maker calls it, or "CPU"."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "CPU"

    def missing_compiler(self) -> str | None:
        """What torch.compile lacks here, or None."""
        if self.device.type == "cuda":
            if find_spec("triton") is None:
                return "torch.compile needs the package triton"
            found = any(map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang")))
            return None if found else "triton needs a C compiler (gcc or clang)"
        found = any(map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++")))
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
    """The highest speed of square matrix products in `dtype`, under the present load of the device.

    On a GPU products of 8192 x 8192; on a CPU the matrices grow until a product takes 3 ms. A process
    measures once, however many runs it makes.
    """
    size, best = (_LARGEST_PRODUCT if device.type == "cuda" else 256), 0.0
    generator = torch.Generator(device)  # the run's own stays as it is
    while True:
        matrix = torch.randn(size, size, dtype=dtype, device=device, generator=generator)
        seconds = _seconds_of_a_product(matrix)
        best = max(best, 2 * size**3 / seconds)
        if seconds >= 0.003 or size >= _LARGEST_PRODUCT:
            return best
        size *= 2


def _seconds_of_a_product(matrix: Tensor) -> float:
    """The shortest of five products. The one before them is not timed: it loads and chooses the kernels."""
    torch.mm(matrix, matrix)
    synchronize(matrix.device)
    spent = []
    for _ in range(5):
        before = time.perf_counter()
        torch.mm(matrix, matrix)
        synchronize(matrix.device)
        spent.append(time.perf_counter() - before)
    return min(spent)


def synchronize(device: torch.device) -> None:
    """Wait for the device to finish what was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def detect_platform(
    requested_backend: str | None = None, *, tensor_parallel_size: int = 1, deterministic: bool = False
) -> Platform:
    """The GPU of this process's local rank with nccl; without GPUs, or with hidden ones, the CPU with gloo.

    Args:
        requested_backend: --distributed-backend; gloo takes the CPU where torch finds no GPU.
        tensor_parallel_size: above 1, the GPU runs kernels in the order in which they were started.
        deterministic: take kernels of torch that give the same bits again.

    Raises:
        UserError: there is no GPU for this process, or torch finds none though the machine has one.
    """
    if torch.cuda.is_available():
        device = torch.device("cuda", _own_gpu())
        _set_up_cuda(tensor_parallel_size=tensor_parallel_size, deterministic=deterministic)
        torch.cuda.set_device(device)
        name = torch.cuda.get_device_name(device)
        info(f"platform: {name}, because torch finds a GPU")
        backends = ("flash", "varlen", "flex", "sdpa")
        if _activates_flash_attention_3(device):
            backends = ("varlen", "flash", "flex", "sdpa")
        return Platform(device, requested_backend or "nccl", name, backends)
    obstacle = why_no_gpu()
    if obstacle is not None and (requested_backend == "nccl" or not _asks_for_the_cpu(requested_backend)):
        raise UserError(obstacle)
    if requested_backend == "nccl":
        raise UserError(
            "--distributed-backend nccl needs a GPU, and this machine shows none; leave the flag out to run "
            "on the CPU"
        )
    from modellink_rm.base.cuda_on_cpu import redirect_cuda_to_cpu

    redirect_cuda_to_cpu()
    info("platform: CPU, because torch finds no GPU; megatron-core's CUDA calls go to the CPU")
    return Platform(torch.device("cpu"), "gloo", "a CPU", ("sdpa",))


def num_gpus() -> int:
    """How many GPUs this process sees."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def why_no_gpu() -> str | None:
    """One line on why torch finds no GPU though this machine has one, and what to do; None if it has none."""
    nodes = _gpu_nodes()
    if torch.cuda.is_available() or not nodes:
        return None
    has = f"this machine has a GPU ({nodes[0]})"
    if torch.version.cuda is None and torch.version.hip is None:
        what = f"the installed torch {torch.__version__} is a build for CPUs; install one for CUDA"
    else:
        what = f"torch {torch.__version__} cannot use it: {_error_of_cuda()}"
    return f"{has}, but {what}, or hide the GPU to run on the CPU (CUDA_VISIBLE_DEVICES=)"


def _gpu_nodes() -> list[str]:
    """Device files of NVIDIA's GPUs, which the driver makes."""
    return sorted(str(path) for path in Path("/dev").glob("nvidia[0-9]*"))


def _error_of_cuda() -> str:
    """What CUDA says when it starts, of a driver that is too old say."""
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (RuntimeError, AssertionError) as error:
        return str(error).split("\n")[0].rstrip(". ")
    return "it finds no device"


def _asks_for_the_cpu(requested_backend: str | None) -> bool:
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    return requested_backend == "gloo" or (hidden is not None and hidden.strip() in ("", "-1"))


def _own_gpu() -> int:
    """The number of this process's GPU among those that it sees.

    Raises:
        UserError: there are more processes on this node than GPUs.
    """
    local_rank, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if local_rank < count:
        return local_rank
    # torchrun shows its processes all GPUs; Slurm's --gpus-per-task shows each task its own, as number 0.
    if count == 1 and "TORCHELASTIC_RUN_ID" not in os.environ:
        return 0
    raise UserError(
        f"each process needs its own GPU: this node runs {local_rank + 1} processes or more, and torch finds "
        f"{count} GPUs; start fewer, or hide the GPUs (CUDA_VISIBLE_DEVICES=)"
    )


def _set_up_cuda(*, tensor_parallel_size: int, deterministic: bool) -> None:
    """What CUDA reads when it starts; what the user has set stays."""
    if tensor_parallel_size > 1:
        # Otherwise an exchange may wait behind the product that it is to overlap with (Megatron-LM's advice).
        os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")
    if not {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"} & os.environ.keys():
        use_expandable_segments()
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # torch refuses cuBLAS without it
        os.environ.setdefault("NCCL_ALGO", "^NVLS")  # sums within the switch have no fixed order
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # slow


def _activates_flash_attention_3(device: torch.device) -> bool:
    """Make torch's own flash attention FlashAttention 3 on Hopper, where its package is installed."""
    if torch.cuda.get_device_capability(device)[0] != 9 or find_spec("flash_attn_interface") is None:
        return False
    try:
        from torch.nn.attention import activate_flash_attention_impl  # torch 2.10 or newer

        activate_flash_attention_impl("FA3")
    except Exception as error:  # a build for another torch: any kind
        info(f"FlashAttention 3 is installed and not used: {type(error).__name__}: {error}")
        return False
    info("torch's flash attention is FlashAttention 3, because its package is installed on a Hopper GPU")
    return True


def gives_up_flash_attention_3() -> bool:
    """Make torch's own flash attention the ordinary one again; whether it was FlashAttention 3."""
    try:
        from torch.nn.attention import current_flash_attention_impl, restore_flash_attention_impl
    except ImportError:  # before torch 2.10
        return False
    if current_flash_attention_impl() is None:
        return False
    restore_flash_attention_impl()
    info("FlashAttention 3 does not work here: torch's flash attention is the ordinary one")
    return True


def is_cpu(device: torch.device) -> bool:
    """Whether kernels of a CPU run there."""
    return device.type == "cpu"


def tensor_on(device: torch.device, values: np.ndarray) -> torch.Tensor:
    """The values on `device`; a GPU's queue of work is not waited for."""
    tensor = torch.from_numpy(values)
    if device.type != "cuda":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


def has_onednn_products(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether products of a multiple of `ONEDNN_ROWS` rows are faster by oneDNN than by `torch.matmul`.

    On a CPU in float32; bfloat16 goes to oneDNN anyhow.
    """
    if not is_cpu(device) or dtype != torch.float32:
        return False
    is_built_in: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return is_built_in


def rows_of_a_product(device: torch.device) -> int | None:
    """Rows of a matrix product from which on more are no faster; None on a GPU, which wants all at once."""
    return _ROWS_OF_A_PRODUCT if is_cpu(device) else None


def has_fused_weight_gradients() -> bool:
    """Whether apex's extension can fuse gradient accumulation with the matrix products, on a GPU."""
    if not torch.cuda.is_available() or find_spec("fused_weight_gradient_mlp_cuda") is None:
        return False
    info("gradient accumulation is fused with the matrix products, because apex's extension is installed")
    return True
