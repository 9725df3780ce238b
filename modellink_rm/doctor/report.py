"""The report of `doctor`: as JSON, and as lines for a terminal."""

import dataclasses
import json
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from modellink_rm.doctor.findings import Problem
from modellink_rm.doctor.host import Disk, Host

if TYPE_CHECKING:  # they need torch, which may be what is broken
    from modellink_rm.doctor.devices import Devices
    from modellink_rm.doctor.kernels import KernelReport

FORMAT_VERSION = 1
_WIDTH = 100
_NAME_WIDTH = 14


@dataclass(frozen=True, kw_only=True)
class DoctorReport:
    """What the machine has, and what is wrong.

    Attributes:
        devices: None where there is no device that a run could use, or a package is broken.
        kernels: likewise.
    """

    host: Host
    devices: "Devices | None"
    kernels: "KernelReport | None"
    problems: tuple[Problem, ...]

    def to_json(self) -> bytes:
        """The content of --output."""
        content = {"format_version": FORMAT_VERSION, **dataclasses.asdict(self)}
        return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def lines_of(report: DoctorReport) -> list[str]:
    """Lines of at most 100 columns; the problems stand last."""
    lines = [line for name, text in _rows(report) for line in _wrapped(name, text)]
    lines.append("")
    for problem in report.problems:
        lines += [*_wrapped("PROBLEM", problem.what), *_wrapped("  remedy", problem.remedy)]
    return lines if report.problems else [*lines, "no problem was found"]


def _rows(report: DoctorReport) -> Iterator[tuple[str, str]]:
    host = report.host
    yield "package", f"modellink-rm {host.version}, Python {host.python}, {host.system}"
    yield "installed", ", ".join(f"{name} {found}" for name, found in host.packages.items())
    yield "not installed", ", ".join(host.missing_packages) or "nothing that this tool would use"
    yield "programs", ", ".join(host.programs) or "no compiler, no nvidia-smi"
    yield "processor", f"{host.num_cores} cores"
    yield "memory", f"{host.free_memory / 2**30:.1f} of {host.memory / 2**30:.1f} GiB free"
    if report.devices is not None:
        yield from _device_rows(report.devices)
    if report.kernels is not None:
        yield from _kernel_rows(report.kernels)
    disk = host.disk
    yield "disk", f"{disk.directory}: {disk.free / 1e9:,.0f} GB free; {_rates(disk)}"
    yield "limits", _limits(host)


def _rates(disk: Disk) -> str:
    if disk.written_per_second is None or disk.read_per_second is None:
        return f"not measured: {disk.obstacle or 'too little space'}"
    return f"{disk.written_per_second / 1e6:,.0f} MB/s written, {disk.read_per_second / 1e6:,.0f} MB/s read"


def _limits(host: Host) -> str:
    files = "any number of" if host.open_files is None else f"{host.open_files:,}"
    locked = "all memory" if host.locked_memory is None else f"{host.locked_memory / 2**20:,.0f} MiB"
    shared = (
        "no /dev/shm" if host.shared_memory is None else f"/dev/shm of {host.shared_memory / 2**30:.1f} GiB"
    )
    return f"{files} open files, {locked} can be locked, {shared}"


def _device_rows(devices: "Devices") -> Iterator[tuple[str, str]]:
    if not devices.gpus:
        yield "device", "the CPU: this machine shows no GPU, or it is hidden"
    for number, gpu in enumerate(devices.gpus):
        memory = f"{gpu.free_memory / 2**30:.1f} of {gpu.memory / 2**30:.1f} GiB free"
        yield (
            f"GPU {number}",
            f"{gpu.name}, compute capability {'.'.join(map(str, gpu.capability))}, {memory}",
        )
    if devices.gpus:
        yield "driver", f"{devices.driver or 'unknown'}; CUDA {devices.cuda}, NCCL {devices.nccl}"
    rates = devices.matmul_flops_per_second.items()
    yield "matmul peak", ", ".join(f"{rate / 1e12:,.3g} TFLOP/s in {dtype}" for dtype, rate in rates)


def _kernel_rows(kernels: "KernelReport") -> Iterator[tuple[str, str]]:
    for choice in kernels.attention:
        others = "; ".join(f"{name}: {reason}" for name, reason in choice.passed_over.items())
        yield "attention", f"{choice.chosen or 'no kernel'} in {choice.dtype} (others: {others or 'none'})"
    obstacle = kernels.compiler_obstacle
    yield "compiler", "torch.compile works" if obstacle is None else obstacle


def _wrapped(name: str, text: str) -> list[str]:
    indent = " " * _NAME_WIDTH
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=name.ljust(_NAME_WIDTH),
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
