"""The memory that a process can still take."""

from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    import torch

# The limits of a container, and what it uses of them: of cgroups 2, and 1.
_CGROUP_FILES = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def free_memory(device: "torch.device") -> int:
    """Bytes that are free on a GPU, or on this host for all of its processes."""
    if device.type != "cuda":
        return free_host_memory()
    import torch

    free, _ = torch.cuda.mem_get_info(device)
    return free


def free_host_memory(cgroup_files: tuple[tuple[str, str], ...] = _CGROUP_FILES) -> int:
    """Bytes of host memory that are free, within the limit of the container if there is one.

    Args:
        cgroup_files: files of a limit and of what is used of it, in bytes.
    """
    free = int(psutil.virtual_memory().available)
    for limit_file, used_file in cgroup_files:
        try:
            limit, used = (int(Path(name).read_text()) for name in (limit_file, used_file))
        except (OSError, ValueError):  # none such, or "max"
            continue
        free = min(free, max(limit - used, 0))
    return free
