"""A run of the trainer as a process of its own, with its figures.

python -m benchmarks.gpu_check.training OUTPUT SAVES FLAG ...
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu_check.parts import ROOT, Setting
from modellink_rm.dataset.example import IGNORED_LABEL
from modellink_rm.dataset.indexed import IndexedWriter, bin_path, idx_path
from modellink_rm.dataset.manifest import array_prefix

_NUM_IDS = 32000


def run_trainer(
    setting: Setting,
    flags: Sequence[str],
    *,
    seconds: float,
    save: Path,
    saves: bool = False,
    environment: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Figures of a run: rows of metrics.jsonl, seconds, peak memory; or {"error": the last line it said}.

    Args:
        flags: beside those of the data's kind and --save.
        seconds: after which it is ended.
        saves: write checkpoints under `save`, not metrics.jsonl alone.
    """
    output = save / "figures.json"
    save.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "benchmarks.gpu_check.training", str(output), str(int(saves))]
    command += ["--stage", "rm", "--is-pairwise-dataset", "--split", "1,0,0", "--save", str(save), *flags]
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if setting.device == "cpu" else {}
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, **hidden, **(environment or {})},
            capture_output=True,
            text=True,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"not done within {seconds:.0f} s"}
    print(done.stdout, done.stderr, sep="\n")
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        return {"error": lines[-1] if lines else f"exit code {done.returncode}"}
    figures: dict[str, Any] = json.loads(output.read_text())
    steps = map(json.loads, (save / "metrics.jsonl").read_text().splitlines())
    figures["steps"] = [step for step in steps if "loss" in step]
    return figures


def main(argv: Sequence[str]) -> int:
    """Train in this process; its exit code."""
    import torch

    from modellink_rm.commands.train import main as train
    from modellink_rm.train import trainer

    output, saves, *flags = argv
    save_seconds: list[float] = []
    save = trainer.save

    def timed_save(*arguments: Any) -> Any:
        started = time.perf_counter()
        result = save(*arguments) if saves == "1" else None
        save_seconds.append(time.perf_counter() - started)
        return result

    trainer.save = timed_save  # type: ignore[assignment]
    started = time.perf_counter()
    code = train(flags)
    has_device = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    figures = {
        "seconds": time.perf_counter() - started,
        "save_seconds": sum(save_seconds),
        "host_memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "device_memory": torch.cuda.max_memory_allocated() if has_device else None,
        "reserved_memory": torch.cuda.max_memory_reserved() if has_device else None,
    }
    Path(output).write_text(json.dumps(figures))
    return code


def write_pairs(prefix: Path, lengths: Sequence[int], *, num_ids: int = _NUM_IDS) -> Path:
    """Random pairs, of which each response with its prompt has one of `lengths` tokens; half of it prompt."""
    generator = np.random.default_rng(5)
    prefix.parent.mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[np.ndarray]] = {}
    for length in lengths:
        prompt = generator.integers(3, num_ids, size=length // 2)
        for side in ("chosen", "rejected"):
            answer = generator.integers(3, num_ids, size=length - length // 2)
            labels = np.concatenate([np.full(len(prompt), IGNORED_LABEL), answer])
            rows.setdefault(f"{side}_input_ids", []).append(np.concatenate([prompt, answer]))
            rows.setdefault(f"{side}_labels", []).append(labels)
    for name, arrays in rows.items():
        path = array_prefix(prefix, name)
        with bin_path(path).open("wb") as data, idx_path(path).open("wb") as index:
            writer = IndexedWriter(data, index)
            for array in arrays:
                writer.append(array.astype(np.int32), np.array([len(array)], dtype=np.int32))
            writer.finish()
    return prefix


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
