"""Run commands as processes, one thread each on a CPU, and see their peak memory."""

import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from modellink_rm.base.errors import UserError

SECONDS_BETWEEN_LOOKS = 0.1
ROOT = Path(__file__).parents[1]


def run_measured(
    command: list[str], *, device: str = "cpu", is_done: Callable[[], bool] = lambda: False
) -> float:
    """Peak memory of the command in MB: of its largest process on a CPU, of the whole GPU on a GPU.

    Args:
        is_done: the command is ended once this holds.

    Raises:
        UserError: it failed; with the end of what it said.
    """
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    if device == "cpu":
        environment |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with tempfile.TemporaryFile("w+", errors="replace") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        was_ended, gpu_peak = False, 0.0
        while not (ended := os.wait4(process.pid, os.WNOHANG))[0]:
            if device == "cuda":
                gpu_peak = max(gpu_memory(), gpu_peak)  # NaN stays
            if not was_ended and is_done():
                process.terminate()
                was_ended = True
            time.sleep(SECONDS_BETWEEN_LOOKS)
        _, status, usage = ended
        process.returncode = os.waitstatus_to_exitcode(status)
        log.seek(0)
        said = log.read()
    if process.returncode and not was_ended:
        raise UserError(f"{' '.join(command)}\nfailed with exit code {process.returncode}:\n{said[-3000:]}")
    return gpu_peak if device == "cuda" else usage.ru_maxrss / 1024


def run_trainer(
    words: list[str], *, num_steps: int, work: Path, num_processes: int = 1, device: str = "cpu"
) -> tuple[list[dict[str, Any]], float]:
    """(rows of metrics.jsonl of the first steps, peak memory in MB) of pretrain_rm.py.

    It is ended when the last of these steps is done: no checkpoint is written, as none of the others
    writes one.

    Raises:
        UserError: it failed.
    """
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(num_processes)]
    with tempfile.TemporaryDirectory(dir=work) as save:
        path = Path(save) / "metrics.jsonl"
        peak = run_measured(
            [
                *(sys.executable, *(launcher if num_processes > 1 else [])),
                str(ROOT / "pretrain_rm.py"),
                *("--split", "100,0,0", "--train-iters", str(num_steps + 1), "--save", save),
                *words,
            ],
            device=device,
            is_done=lambda: path.exists() and path.read_bytes().count(b"\n") >= num_steps,
        )
        lines = path.read_text().splitlines()
    return [json.loads(line) for line in lines[:num_steps]], peak


def gpu_memory() -> float:
    """Memory in use on the first visible GPU in MB, all of its users together; NaN without nvidia-smi."""
    if shutil.which("nvidia-smi") is None:
        return math.nan
    number = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", f"--id={number}"]
    return float(subprocess.run(query, capture_output=True, text=True, check=True).stdout)
