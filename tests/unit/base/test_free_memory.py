"""The free memory of a host, and of a container on it."""

from pathlib import Path

import psutil
import torch

from modellink_rm.base.free_memory import free_host_memory, free_memory


def test_a_host_has_what_the_kernel_says_is_available() -> None:
    assert 0 < free_host_memory(()) <= psutil.virtual_memory().total
    assert 0 < free_memory(torch.device("cpu")) <= psutil.virtual_memory().total


def test_a_container_has_what_is_left_of_its_limit(tmp_path: Path) -> None:
    files = (str(tmp_path / "limit"), str(tmp_path / "used"))
    (tmp_path / "limit").write_text("3000\n")
    (tmp_path / "used").write_text("1000\n")
    assert free_host_memory((files,)) == 2000
    (tmp_path / "used").write_text("3500\n")
    assert free_host_memory((files,)) == 0


def test_a_container_without_a_limit_has_what_the_host_has(tmp_path: Path) -> None:
    (tmp_path / "limit").write_text("max\n")
    (tmp_path / "used").write_text("1000\n")
    files = (str(tmp_path / "limit"), str(tmp_path / "used"))
    assert free_host_memory((files, ("no/such/file", "no/such/file"))) > 2**20
