"""A process that fails ends at once with its reason, and the others with it."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
# Rank 0 waits in an exchange for rank 1, which raises; ending the groups would wait for a minute and more.
PROGRAM = """
import time
from modellink_rm.base import engine_import
import torch
from modellink_rm.base.platform import detect_platform
from modellink_rm.config.parallel import ParallelConfig
from modellink_rm.parallel.failures import ending_together
from modellink_rm.parallel.groups import process_groups

torch.distributed.destroy_process_group = lambda: time.sleep(300)
with process_groups(ParallelConfig(), detect_platform(), seed=1) as ranks, ending_together():
    print("started", flush=True)
    if ranks.rank == 1:
        raise RuntimeError("an illegal memory access")
    torch.distributed.all_reduce(torch.ones(1))
    torch.distributed.all_reduce(torch.ones(1))
"""


@pytest.mark.full
def test_a_process_that_fails_does_not_wait_for_its_groups_to_end(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        subprocess.Popen(
            [sys.executable, str(program)],
            env={**shared, "PYTHONPATH": str(ROOT), "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    assert processes[1].stdout is not None
    assert processes[1].stdout.readline() == "started\n"
    started = time.monotonic()
    said = [process.communicate(timeout=60)[1] for process in processes]
    assert time.monotonic() - started < 20
    assert [process.returncode for process in processes] == [1, 1]
    assert "error (rank 1): RuntimeError: an illegal memory access" in said[1]
    assert "error (rank 0): another process of this run has ended" in said[0]
