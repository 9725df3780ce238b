"""The doctor tells what the trainer would do here, and what is wrong in plain words, with the remedy."""

import dataclasses
import json
import socket
from pathlib import Path

import pytest
import torch

from modellink_rm.base.errors import UserError
from modellink_rm.base.platform import Platform
from modellink_rm.commands import doctor
from modellink_rm.config.parallel import ParallelConfig
from modellink_rm.doctor import examine as examine_module
from modellink_rm.doctor import host as host_module
from modellink_rm.doctor import kernels as kernels_module
from modellink_rm.doctor import network as network_module
from modellink_rm.doctor import packages as packages_module
from modellink_rm.doctor.devices import Devices, Gpu, device_problems, driver_version
from modellink_rm.doctor.examine import examine
from modellink_rm.doctor.host import Disk, Host, host_problems
from modellink_rm.doctor.kernels import KernelReport, examine_kernels, kernel_problems
from modellink_rm.doctor.network import network_problems
from modellink_rm.doctor.packages import broken_packages, wrong_versions
from modellink_rm.doctor.report import lines_of
from modellink_rm.parallel.groups import process_groups

CPU = Platform(torch.device("cpu"), "gloo", "a CPU", ("sdpa",))
GPU = Platform(torch.device("cuda", 0), "nccl", "an H100", ("flash", "varlen", "flex", "sdpa"))
H100 = Gpu(name="NVIDIA H100 80GB HBM3", capability=(9, 0), memory=80 * 2**30, free_memory=79 * 2**30)
HOST = Host(
    version="1",
    python="3.12",
    system="Linux",
    packages=dict.fromkeys(host_module.PACKAGES, "1.0"),
    missing_packages=("apex",),
    programs={"gcc": "/usr/bin/gcc"},
    num_cores=8,
    memory=2**36,
    free_memory=2**35,
    shared_memory=None,
    open_files=None,
    locked_memory=None,
    disk=Disk(directory=".", free=10**12, written_per_second=1e9, read_per_second=2e9),
)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the trial of the compiler, and with a small file for the disk."""
    monkeypatch.setattr(kernels_module, "compiler_obstacle", lambda *_, **__: None)
    monkeypatch.setattr(host_module, "_MEASURED_BYTES", 2**24)
    monkeypatch.setattr("modellink_rm.base.cuda_on_cpu.redirect_cuda_to_cpu", lambda: None)


def devices(*gpus: Gpu, bfloat16: float = 700e12) -> Devices:
    rates = {"bfloat16": bfloat16, "float32": 50e12}
    return Devices(
        device="cuda", driver="550.54", cuda="13.0", nccl="2.27", gpus=gpus, matmul_flops_per_second=rates
    )


def test_the_report_says_what_the_trainer_would_take_here(
    quick: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = doctor.main(["--directory", str(tmp_path), "--output", str(tmp_path / "report.json")])
    report = json.loads((tmp_path / "report.json").read_text())
    assert code == (1 if report["problems"] else 0)
    choices = {choice["dtype"]: choice for choice in report["kernels"]["attention"]}
    assert choices["bfloat16"]["chosen"] == choices["float32"]["chosen"] == "sdpa"
    assert choices["bfloat16"]["passed_over"] == {"reference": "it works, and is a later choice"}
    assert report["devices"]["matmul_flops_per_second"]["float32"] > 1e8
    assert report["host"]["packages"]["torch"] == torch.__version__
    assert report["host"]["disk"]["written_per_second"] > 1e6
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("attention     sdpa in bfloat16") for line in lines)
    assert max(map(len, lines)) <= 100 + len(str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_a_gpu_that_torch_cannot_use_is_a_problem_and_the_rest_is_still_told(
    quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused() -> Platform:
        raise UserError("this machine has a GPU (/dev/nvidia0), but the driver is too old")

    monkeypatch.setattr(examine_module, "detect_platform", refused)
    report = examine(tmp_path)
    assert report.devices is None
    assert "the driver is too old" in report.problems[0].what
    lines = lines_of(report)
    assert any(line.startswith("PROBLEM       this machine has a GPU") for line in lines)
    assert any(line.startswith("  remedy") for line in lines)
    assert any(line.startswith("disk") for line in lines)


def test_a_sound_machine_has_no_problem() -> None:
    assert [*host_problems(HOST), *device_problems(devices(H100, H100))] == []


@pytest.mark.parametrize(
    ("changes", "what", "remedy"),
    [
        (
            {
                "disk": Disk(
                    directory="d",
                    free=10**12,
                    written_per_second=None,
                    read_per_second=None,
                    obstacle="File too large",
                )
            },
            "d does not take a file of 256 MiB: File too large",
            "ulimit -f",
        ),
        ({"open_files": 1024}, "may open 1024 files", "ulimit -n"),
        (
            {"disk": Disk(directory="d", free=10**9, written_per_second=None, read_per_second=None)},
            "1.0 GB",
            "free",
        ),
        (
            {"disk": Disk(directory="d", free=10**12, written_per_second=5e7, read_per_second=1e9)},
            "written at 50 MB/s: the checkpoint of an 8B model with its optimizer takes 37 minutes",
            "faster disk",
        ),
    ],
)
def test_what_is_wrong_with_the_host_has_a_remedy(changes: dict[str, object], what: str, remedy: str) -> None:
    problem = next(host_problems(dataclasses.replace(HOST, **changes)))  # type: ignore[arg-type]
    assert what in problem.what
    assert remedy in problem.remedy


@pytest.mark.parametrize(
    ("found", "what"),
    [
        (devices(dataclasses.replace(H100, free_memory=40 * 2**30)), "40 of 80 GiB of GPU 0 are in use"),
        (devices(dataclasses.replace(H100, name="Tesla V100", capability=(7, 0))), "no bfloat16 products"),
        (devices(H100, dataclasses.replace(H100, name="NVIDIA A100-SXM4-80GB")), "the GPUs differ"),
        (devices(H100, bfloat16=300e12), "300 TFLOP/s, below half of the data sheet's 989"),
    ],
)
def test_what_is_wrong_with_gpus_is_named(found: Devices, what: str) -> None:
    (problem,) = device_problems(found)
    assert what in problem.what
    assert problem.remedy


def test_slow_or_missing_kernels_of_a_gpu_are_problems(monkeypatch: pytest.MonkeyPatch) -> None:
    obstacles = {"flash": "not installed", "varlen": "too old", "flex": "it fails here", "sdpa": None}
    monkeypatch.setattr(kernels_module, "attention_obstacle", lambda name, *_: obstacles.get(name, "no"))
    monkeypatch.setattr(kernels_module, "compiler_obstacle", lambda *_, **__: None)
    monkeypatch.setattr(Platform, "missing_compiler", lambda self: "torch.compile needs the package triton")
    found = examine_kernels(GPU)
    assert found.attention[0].chosen == "sdpa"
    assert found.attention[0].passed_over["varlen"] == "too old"
    said = [problem.what for problem in kernel_problems(found, GPU)]
    assert said == [
        "norm, rotation and gate cannot be compiled: torch.compile needs the package triton",
        "attention in bfloat16 is sdpa, the slowest kernel that works here",
    ]
    remedies = [next(kernel_problems(found, platform)).remedy for platform in (GPU, CPU)]
    assert remedies[0].startswith("install triton, a C compiler and Python's headers; ")
    assert remedies[1].startswith("install a C++ compiler (g++); ")
    monkeypatch.setattr(Platform, "missing_compiler", lambda self: None)
    assert next(kernel_problems(found, CPU)).remedy == "mend that; runs work without, more slowly"
    works = KernelReport(attention=found.attention, compiler_obstacle=None)
    assert list(kernel_problems(works, CPU)) == []


def test_the_limit_of_a_container_bounds_free_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, text in (("memory.max", "3000\n"), ("memory.current", "1000\n")):
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(host_module, "Path", lambda name: tmp_path / Path(name).name)
    assert host_module._free_in_container() == 2000
    (tmp_path / "memory.max").write_text("max\n")
    assert host_module._free_in_container() > 2**60


def test_the_driver_version_is_read_from_the_kernel_module(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "version"
    file.write_text(
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 2024\nGCC version\n"
    )
    monkeypatch.setattr("modellink_rm.doctor.devices.Path", lambda _: file)
    assert driver_version() == "550.54.15"


def test_a_package_that_cannot_be_imported_is_a_problem_and_the_rest_is_still_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(host_module, "_MEASURED_BYTES", 2**20)
    reasons = {"torch": "libcudart.so.13: cannot open shared object file", "transformers": "No module torch"}

    def import_module(name: str) -> object:
        if name in ("torch", "megatron.core.transformer"):
            raise OSError(reasons["torch"])
        if name == "transformers":
            raise ModuleNotFoundError(reasons[name], name="torch")
        return None

    monkeypatch.setattr(packages_module, "import_module", import_module)
    assert doctor.main(["--directory", str(tmp_path), "--output", str(tmp_path / "report.json")]) == 1
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["devices"] is None
    assert report["problems"][0]["what"] == f"the package torch cannot be imported: {reasons['torch']}"
    assert "transformers" not in str(report["problems"]), "it lacks torch, and nothing else"
    assert "megatron" not in str(report["problems"])
    assert any(line.startswith("disk") for line in capsys.readouterr().out.splitlines())


def test_a_package_that_is_not_there_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(packages_module._MODULES, "no-such-package", "no_such_package")
    (problem,) = broken_packages()
    assert problem.what == "the package no-such-package is not installed"
    assert "pip install" in problem.remedy


def test_a_version_outside_the_bounds_of_pyproject_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = ["torch<3,>=2.9", "numpy<3,>=1.26", "wandb>=0.19; extra == 'wandb'", "jinja2<4,>=3.1"]
    found = {"torch": "2.9.0a0+nv25.9", "numpy": "1.25.1", "wandb": "0.1", "jinja2": "4.0"}
    monkeypatch.setattr(packages_module, "requires", lambda _: needed)
    monkeypatch.setattr(packages_module, "installed_version", found.get)
    assert [problem.what for problem in wrong_versions()] == [
        "numpy 1.25.1 is installed, and numpy<3,>=1.26 is needed",
        "jinja2 4.0 is installed, and jinja2<4,>=3.1 is needed",
    ]


def test_a_directory_that_is_not_there_is_refused() -> None:
    with pytest.raises(UserError, match="--directory must be a directory, got nowhere"):
        doctor.main(["--directory", "nowhere"])


def test_a_machine_whose_processes_find_each_other_has_no_problem_of_networks() -> None:
    assert list(network_problems("gloo")) == list(network_problems("nccl")) == []


def test_a_name_under_which_a_machine_does_not_reach_itself_is_a_problem(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("socket.getfqdn", lambda: "no..where")
    (problem,) = network_problems("gloo")
    assert problem.what.startswith("this machine does not reach itself by its name, no..where: ")
    assert problem.remedy.startswith("a line `127.0.0.1 no..where` in /etc/hosts; ")


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6 here")
def test_a_name_of_an_ipv6_address_alone_is_no_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.getfqdn", lambda: "::1")
    assert list(network_problems("gloo")) == []


def test_a_machine_without_a_loopback_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_module, "_LOOPBACK", "192.0.2.1")  # of no machine (RFC 5737)
    monkeypatch.setattr(network_module, "_SECONDS", 0.05)
    (problem,) = network_problems("gloo")
    assert problem.what.startswith("a process does not reach another one of this machine, at 192.0.2.1: ")


def test_an_interface_that_is_not_there_is_a_problem_and_ends_a_run_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "ib9")
    (problem,) = network_problems("gloo")
    assert "no group of processes can be formed with gloo: " in problem.what
    assert "ib9" in problem.what
    message = "gloo, by which processes talk, does not find the address for: ib9; GLOO_SOCKET_IFNAME"
    with pytest.raises(UserError, match=message), process_groups(ParallelConfig(), CPU, seed=1):
        pass
