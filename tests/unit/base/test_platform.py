"""The device of a process: found, refused in one line, or the CPU where it is asked for; and its speed."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from modellink_rm.base import platform as platform_module
from modellink_rm.base.errors import UserError
from modellink_rm.base.platform import Platform, detect_platform, matmul_flops_per_second, why_no_gpu

CPU = torch.device("cpu")


class Cuda:
    """Stands in for torch.cuda on a machine with `count` GPUs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, count: int, capability: tuple[int, int] = (8, 0)):
        self.chosen: list[torch.device] = []
        self.settings: list[str] = []
        cuda: dict[str, Any] = {
            "is_available": lambda: count > 0,
            "device_count": lambda: count,
            "set_device": self.chosen.append,
            "get_device_name": lambda device: "NVIDIA Stand-in",
            "get_device_capability": lambda device: capability,
        }
        for name, value in cuda.items():
            monkeypatch.setattr(torch.cuda, name, value)
        monkeypatch.setattr(
            platform_module, "use_expandable_segments", lambda: self.settings.append("expandable")
        )
        for name in ("LOCAL_RANK", "TORCHELASTIC_RUN_ID", "CUDA_DEVICE_MAX_CONNECTIONS", "NCCL_ALGO"):
            monkeypatch.setenv(name, "to be removed")  # so that what is set meanwhile goes away again
            monkeypatch.delenv(name)


@pytest.fixture
def gpu_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver's device file is there, and torch finds no GPU."""
    monkeypatch.setattr(platform_module, "_gpu_nodes", lambda: ["/dev/nvidia0"])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_a_gpu_that_torch_cannot_use_is_not_replaced_by_the_cpu(
    gpu_node: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(UserError, match=r"/dev/nvidia0\), but the installed torch .* is a build for CPUs"):
        detect_platform()

    def old_driver() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040). Please update")

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "init", old_driver)
    with pytest.raises(UserError, match=r"cannot use it: The NVIDIA driver .* too old") as refused:
        detect_platform("nccl")
    assert "CUDA_VISIBLE_DEVICES=" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("backend", "hidden"), [("gloo", None), (None, ""), (None, "-1")])
def test_the_cpu_is_taken_beside_a_gpu_where_it_is_asked_for(
    backend: str | None, hidden: str | None, gpu_node: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modellink_rm.base.cuda_on_cpu.redirect_cuda_to_cpu", lambda: None)
    if hidden is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert detect_platform(backend).device == CPU


def test_nccl_without_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform_module, "_gpu_nodes", list)
    assert why_no_gpu() is None
    with pytest.raises(UserError, match="nccl needs a GPU, and this machine shows none"):
        detect_platform("nccl")


def test_processes_take_the_gpu_of_their_local_rank_or_the_one_that_slurm_shows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cuda = Cuda(monkeypatch, count=4)
    monkeypatch.setenv("LOCAL_RANK", "3")
    found = detect_platform()
    assert (found.device, found.backend) == (torch.device("cuda", 3), "nccl")
    assert cuda.chosen == [torch.device("cuda", 3)]
    Cuda(monkeypatch, count=1)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert detect_platform().device == torch.device("cuda", 0)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")  # torchrun shows all GPUs to every process
    with pytest.raises(UserError, match="4 processes or more, and torch finds 1 GPUs"):
        detect_platform()


def test_cuda_is_set_up_before_it_starts_and_what_the_user_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTORCH_ALLOC_CONF", raising=False)
    monkeypatch.delenv("PYTORCH_CUDA_ALLOC_CONF", raising=False)
    cuda = Cuda(monkeypatch, count=1)
    detect_platform()
    assert cuda.settings == ["expandable"]
    assert "CUDA_DEVICE_MAX_CONNECTIONS" not in os.environ
    detect_platform(tensor_parallel_size=2)
    assert os.environ["CUDA_DEVICE_MAX_CONNECTIONS"] == "1"
    monkeypatch.setenv("CUDA_DEVICE_MAX_CONNECTIONS", "8")
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:64")
    cuda.settings.clear()
    detect_platform(tensor_parallel_size=2)
    assert os.environ["CUDA_DEVICE_MAX_CONNECTIONS"] == "8"
    assert cuda.settings == []


def test_deterministic_asks_torch_cublas_and_nccl(monkeypatch: pytest.MonkeyPatch) -> None:
    Cuda(monkeypatch, count=1)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    try:
        detect_platform(deterministic=True)
        assert torch.are_deterministic_algorithms_enabled()
        assert os.environ["NCCL_ALGO"] == "^NVLS"
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
    finally:
        torch.use_deterministic_algorithms(False)
        torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]


@pytest.mark.parametrize(("capability", "works"), [((9, 0), True), ((9, 0), False), ((8, 0), True)])
def test_flash_attention_3_is_torchs_own_on_hopper_where_it_works(
    capability: tuple[int, int], works: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    attention = pytest.importorskip("torch.nn.attention")
    if not hasattr(attention, "activate_flash_attention_impl"):
        pytest.skip(f"torch {torch.__version__} does not have it; runs take another kernel then")
    activated = []

    def activate(name: str) -> None:
        if not works:
            raise RuntimeError("another build")
        activated.append(name)

    Cuda(monkeypatch, count=1, capability=capability)
    monkeypatch.setattr(attention, "activate_flash_attention_impl", activate)
    monkeypatch.setattr(platform_module, "find_spec", lambda name: name == "flash_attn_interface")
    is_used = works and capability[0] == 9
    assert detect_platform().attention_backends[0] == ("varlen" if is_used else "flash")
    assert activated == (["FA3"] if is_used else [])


@pytest.mark.parametrize(
    ("packages", "programs", "message"),
    [((), ("gcc",), "package triton"), (("triton",), (), "C compiler"), (("triton",), ("clang",), None)],
)
def test_compiling_for_a_gpu_needs_triton_and_a_c_compiler(
    packages: tuple[str, ...], programs: tuple[str, ...], message: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform_module, "find_spec", lambda name: name in packages or None)
    monkeypatch.setattr(shutil, "which", lambda name: name if name in programs else None)
    missing = Platform(torch.device("cuda", 0), "nccl", "a GPU", ()).missing_compiler()
    assert missing is None if message is None else message in str(missing)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float, float], list[int]]:
    """Products at a given rate whose first one takes longer, and the sizes of those that ran."""

    def start(rate: float, seconds_of_first: float) -> list[int]:
        now, sizes = [0.0], []

        def product(left: Any, right: Any) -> None:
            now[0] += 2 * len(left) ** 3 / rate + (0.0 if sizes else seconds_of_first)
            sizes.append(len(left))

        monkeypatch.setattr(torch, "mm", product)
        monkeypatch.setattr(time, "perf_counter", lambda: now[0])
        monkeypatch.setattr(torch, "randn", lambda size, *_, **__: range(size))
        monkeypatch.setattr(torch, "Generator", lambda device: None)
        monkeypatch.setattr(platform_module, "synchronize", lambda device: None)
        monkeypatch.setattr(platform_module, "_seconds_of_a_product", with_device)
        return sizes

    original = platform_module._seconds_of_a_product

    def with_device(matrix: range) -> float:
        return original(type("Matrix", (), {"device": CPU, "__len__": lambda self: len(matrix)})())

    return start


@pytest.mark.parametrize(("device", "rate", "last_size"), [("cuda", 9e14, 8192), ("cpu", 1e11, 1024)])
def test_a_slow_first_product_does_not_lower_the_peak(
    device: str, rate: float, last_size: int, clock: Callable[[float, float], list[int]]
) -> None:
    sizes = clock(rate, 3.0)  # cuBLAS loads for a second and more
    assert matmul_flops_per_second.__wrapped__(torch.device(device), torch.bfloat16) == pytest.approx(rate)
    assert sizes.count(last_size) >= 1 + 3
    assert sizes[-1] == last_size


def test_the_peak_of_this_machine_is_measured() -> None:
    assert 1e8 < matmul_flops_per_second(CPU, torch.float32) < 1e14


def test_device_files_are_those_of_gpus_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / name).touch()
    monkeypatch.setattr(platform_module, "Path", lambda _: tmp_path)
    assert [Path(one).name for one in platform_module._gpu_nodes()] == ["nvidia0", "nvidia1"]
