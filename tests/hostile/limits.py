"""Limits of the system on a command's own process."""

import ctypes
import os
import resource
from pathlib import Path


def limit_files(number: int) -> None:
    """Let the process open that many files at once."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (number, number))


def limit_memory(more: int) -> None:
    """Let the process take that many bytes of address space more than it has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    total = pages * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (total, total))


def fill_standard_output() -> None:
    """Let nothing more fit where the process prints."""
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)


def obey_permissions() -> None:
    """Let the process read and write what the files' permissions say, though it may be root's."""
    version_3, this_process = 0x20080522, 0
    libc = ctypes.CDLL(None, use_errno=True)
    none = (ctypes.c_uint32 * 6)()
    assert libc.capset((ctypes.c_uint32 * 2)(version_3, this_process), none) == 0
