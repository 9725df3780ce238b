"""The machine without its GPUs: versions, processor, memory, disk, limits."""

import os
import platform
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from modellink_rm.doctor.findings import Problem
from modellink_rm.doctor.packages import installed_version
from modellink_rm.version import __version__

# What a run needs, then what makes one faster where it is installed.
PACKAGES = ("torch", "megatron-core", "transformers", "tokenizers", "safetensors", "numpy")
OPTIONAL_PACKAGES = ("triton", "flash-attn", "flash-attn-3", "apex", "transformer-engine", "nvidia-nccl-cu13")
PROGRAMS = ("gcc", "g++", "clang", "nvcc", "nvidia-smi")
_MEASURED_BYTES = 256 * 2**20
_LEAST_FREE_DISK = 20 * 10**9  # a checkpoint of a 1B model with its optimizer takes some 14 GB
_SLOW_DISK = 100e6  # bytes a second: an 8B model's checkpoint, 112 GB, would take 19 minutes
_LEAST_OPEN_FILES = 4096


@dataclass(frozen=True, kw_only=True)
class Disk:
    """The disk under a directory; sizes in bytes, rates in bytes a second, None where none was measured.

    Attributes:
        obstacle: why no file can be written there; None if one can, or there is too little space to try.
    """

    directory: str
    free: int
    written_per_second: float | None
    read_per_second: float | None
    obstacle: str | None = None


@dataclass(frozen=True, kw_only=True)
class Host:
    """A machine without its GPUs.

    Attributes:
        packages: version of each installed package.
        missing_packages: packages that would make runs faster.
        programs: path of each program that was found.
        num_cores: cores that this process may use.
        memory: of the machine, in bytes.
        free_memory: that new processes can have, in bytes; within the limit of a container.
        shared_memory: size of /dev/shm in bytes; None where there is none.
        open_files: how many files a process may open; None for any number.
        locked_memory: bytes that a process may lock, for a network's adapter; None for all.
    """

    version: str
    python: str
    system: str
    packages: dict[str, str]
    missing_packages: tuple[str, ...]
    programs: dict[str, str]
    num_cores: int
    memory: int
    free_memory: int
    shared_memory: int | None
    open_files: int | None
    locked_memory: int | None
    disk: Disk


def examine_host(directory: Path) -> Host:
    """The machine, and the disk under `directory`, which is measured with a file of 256 MiB for the while."""
    installed = {name: installed_version(name) for name in (*PACKAGES, *OPTIONAL_PACKAGES)}
    shared = Path("/dev/shm")
    return Host(
        version=__version__,
        python=platform.python_version(),
        system=platform.platform(),
        packages={name: found for name, found in installed.items() if found is not None},
        missing_packages=tuple(name for name in OPTIONAL_PACKAGES if installed[name] is None),
        programs={name: path for name in PROGRAMS if (path := shutil.which(name)) is not None},
        num_cores=len(os.sched_getaffinity(0)),
        memory=_memory("MemTotal"),
        free_memory=min(_memory("MemAvailable"), _free_in_container()),
        shared_memory=shutil.disk_usage(shared).total if shared.is_dir() else None,
        open_files=_limit(resource.RLIMIT_NOFILE),
        locked_memory=_limit(resource.RLIMIT_MEMLOCK),
        disk=_examine_disk(directory),
    )


def host_problems(host: Host) -> Iterator[Problem]:
    """What is wrong with the machine, its GPUs aside."""
    if host.open_files is not None and host.open_files < _LEAST_OPEN_FILES:
        yield Problem(
            what=f"a process may open {host.open_files} files, which many data sets or processes exceed",
            remedy=f"ulimit -n {_LEAST_OPEN_FILES}",
        )
    disk = host.disk
    if disk.obstacle is not None:
        yield Problem(
            what=f"{disk.directory} does not take a file of {_MEASURED_BYTES >> 20} MiB: {disk.obstacle}",
            remedy="change its permissions, quota or limits (ulimit -f), or give --save another directory",
        )
    if disk.free < _LEAST_FREE_DISK:
        yield Problem(
            what=f"{disk.directory} has {disk.free / 1e9:.1f} GB free, less than a checkpoint of a 1B model "
            "with its optimizer",
            remedy="free some, or give --save another disk",
        )
    speed = disk.written_per_second
    if speed is not None and speed < _SLOW_DISK:
        yield Problem(
            what=f"{disk.directory} is written at {speed / 1e6:.0f} MB/s: the checkpoint of an 8B model with "
            f"its optimizer takes {112e9 / speed / 60:.0f} minutes",
            remedy="give --save a faster disk, or save less often (--save-interval)",
        )


def _limit(number: int) -> int | None:
    soft, _ = resource.getrlimit(number)
    return None if soft == resource.RLIM_INFINITY else soft


def _memory(name: str) -> int:
    """Bytes the kernel says under a name: "MemTotal:       16384000 kB"; psutil may be what is broken."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:"))


def _free_in_container() -> int:
    """Bytes until the limit of this process's container (cgroup v2), or more than any machine has."""
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
    except (OSError, ValueError):
        return 2**63
    return 2**63 if limit == "max" else max(int(limit) - used, 0)


def _examine_disk(directory: Path) -> Disk:
    free = shutil.disk_usage(directory).free
    written = read = obstacle = None
    if free > 4 * _MEASURED_BYTES:
        try:
            written, read = _rates(directory)
        except OSError as error:
            obstacle = error.strerror or str(error)
    return Disk(
        directory=str(directory),
        free=free,
        written_per_second=written,
        read_per_second=read,
        obstacle=obstacle,
    )


def _rates(directory: Path) -> tuple[float, float]:
    """Bytes a second, (written and synced, read again without the system's copy in memory)."""
    block = os.urandom(2**24)
    with tempfile.TemporaryFile(dir=directory) as file:
        started = time.perf_counter()
        for _ in range(_MEASURED_BYTES // len(block)):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
        written = time.perf_counter()
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        file.seek(0)
        before = time.perf_counter()
        while file.read(len(block)):
            pass
        return _MEASURED_BYTES / (written - started), _MEASURED_BYTES / (time.perf_counter() - before)
