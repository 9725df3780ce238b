"""Parts that measure: speed and memory, a profile, saving, and TRL beside it."""

import json
import os
import statistics
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu_check.parts import ROOT, Result, Setting, SkippedError
from benchmarks.gpu_check.training import run_trainer, write_pairs
from benchmarks.random_model import write_random_model

NUM_STEPS = 6
WARM_UP = 2
GIB = 2**30
LOSS_TOLERANCE = 5e-2  # of bfloat16 with other sums


def speed(setting: Setting) -> Result:
    """Tokens a second, share of the peak and memory, by shape, tokens, compiling and attention kernel."""
    rows = []
    for shape, length in _shapes(setting):
        variants: list[list[str]] = [[]]
        if (shape, length) == _shapes(setting)[0]:
            variants += [["--compile", "never"], ["--attention-backend", "sdpa"]]
        for number, variant in enumerate(variants):
            figures = _measured(setting, shape, length, variant, name=f"speed-{shape}-{length}-{number}")
            rows.append({"shape": shape, "tokens": length, "flags": " ".join(variant), **figures})
    return _speed_result(rows)


def _shapes(setting: Setting) -> list[tuple[str, int]]:
    if setting.is_tiny:
        return [("small", 32)]
    return [("1b", 4096), ("1b", 8192), ("3b", 4096), ("1b", 16384), ("3b", 8192), ("3b", 16384)]


def _speed_result(rows: list[dict[str, Any]]) -> Result:
    done = [row for row in rows if "error" not in row]
    best = max(done, key=lambda row: float(row["matmul_share"]), default=None)
    failures = [
        f"{row['shape']} {row['tokens']} {row['flags']}: {row['error']}" for row in rows if "error" in row
    ]
    if best is None:
        return Result(passed=False, summary="; ".join(failures), rows=rows)
    summary = (
        f"best: {best['shape']} at {best['tokens']} tokens, {best['tokens_per_second']:,.0f} tokens/s, "
        f"{best['matmul_share']:.2f} of the peak"
    )
    return Result(passed=not failures, summary="; ".join([summary, *failures]), rows=rows)


def _measured(
    setting: Setting,
    shape: str,
    length: int,
    flags: list[str],
    *,
    name: str,
    environment: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Medians over the timed steps of a run with one pair of that length a micro-batch."""
    pairs = write_pairs(setting.work / name / "pairs", [length] * 2 * NUM_STEPS)
    run = run_trainer(
        setting,
        [*_flags(setting, shape, pairs, length), "--train-iters", str(NUM_STEPS), *flags],
        seconds=120,
        save=setting.work / name,
        environment=environment,
    )
    if "error" in run:
        return run
    timed = run["steps"][WARM_UP:]
    names = ("tokens_per_second", "computed_tokens_per_second", "matmul_share")
    return {
        **{key: statistics.median(step[key] for step in timed) for key in names},
        "device_memory": run["device_memory"],
        "host_memory": run["host_memory"],
        "losses": [step["loss"] for step in run["steps"]],
    }


def _flags(setting: Setting, shape: str, pairs: Path, length: int) -> list[str]:
    model = setting.work / shape
    if not model.exists():
        from tests.tiny_data import write_tokenizer

        tokenizer = write_tokenizer(setting.work / "tokenizer")
        write_random_model(shape, model, device=setting.device, tokenizer_of=tokenizer)
    return (
        f"--load {model} --load-checkpoint-loosely --data-path {pairs} --seq-length {length} --bf16 "
        "--lr 1e-5 --lr-decay-style constant --global-batch-size 2 "
        f"--max-tokens-per-micro-batch {2 * length} "
        "--recompute-granularity full"
    ).split()


def profile(setting: Setting) -> Result:
    """The operations that take most of a step's time."""
    shape, length = _shapes(setting)[0]
    save = setting.work / "profile"
    pairs = write_pairs(save / "pairs", [length] * 8)
    words = "--train-iters 4 --profile --profile-step-start 2 --profile-step-end 3"
    run = run_trainer(
        setting, [*_flags(setting, shape, pairs, length), *words.split()], seconds=100, save=save
    )
    if "error" in run:
        return Result(passed=False, summary=run["error"])
    trace = save / "profile" / "rank0.pt.trace.json"
    spent: Counter[str] = Counter()
    for event in json.loads(trace.read_text())["traceEvents"]:
        if event.get("cat") == ("kernel" if setting.device == "cuda" else "cpu_op"):
            spent[event["name"]] += event["dur"]
    total = sum(spent.values()) or 1
    rows = [{"operation": name, "share": time / total} for name, time in spent.most_common(15)]
    top = ", ".join(f"{row['operation'][:40]} {row['share']:.0%}" for row in rows[:3])
    return Result(passed=bool(rows), summary=top or "no operation in the trace", rows=rows)


def weight_gradients(setting: Setting) -> Result:
    """Weight gradients added to the float32 sum by the product itself, against a product and a sum."""
    shape, length = _shapes(setting)[0]
    runs = {
        name: _measured(setting, shape, length, flags, name=f"gradients-{name}")
        for name, flags in (("fused", []), ("separate", ["--no-gradient-accumulation-fusion"]))
    }
    rows = [{"run": name, **run} for name, run in runs.items()]
    if any("error" in run for run in runs.values()):
        return Result(passed=False, summary="a run failed", rows=rows)
    one, other = runs["fused"], runs["separate"]
    difference = max(abs(a - b) for a, b in zip(one["losses"], other["losses"], strict=True))
    gain = one["tokens_per_second"] / other["tokens_per_second"]
    return Result(
        passed=difference < LOSS_TOLERANCE,
        summary=f"{gain:.2f} times the speed; losses differ by {difference:.1e}",
        rows=rows,
    )


def lengths(setting: Setting) -> Result:
    """Memory over steps of random lengths, with segments that grow and without."""
    shape, longest = _shapes(setting)[0]
    num_steps = 4 if setting.is_tiny else 50
    generator = np.random.default_rng(2)
    save = setting.work / "lengths"
    sizes = generator.integers(longest // 8, longest, size=2 * num_steps).tolist()
    pairs = write_pairs(save / "pairs", sizes)
    rows = []
    for name, value in (("expandable", "expandable_segments:True"), ("fixed", "expandable_segments:False")):
        run = run_trainer(
            setting,
            [*_flags(setting, shape, pairs, longest), "--train-iters", str(num_steps)],
            seconds=85,
            save=save / name,
            environment={"PYTORCH_CUDA_ALLOC_CONF": value},
        )
        kept = {
            key: run[key] for key in ("error", "seconds", "device_memory", "reserved_memory") if key in run
        }
        rows.append({"segments": name, **kept})
    failed = [row["error"] for row in rows if "error" in row]
    reserved = ", ".join(
        f"{row['segments']}: {row['reserved_memory'] / GIB:.1f} GiB"
        for row in rows
        if row.get("reserved_memory")
    )
    return Result(
        passed=not failed, summary="; ".join([*failed, f"reserved {reserved or 'not measured'}"]), rows=rows
    )


def checkpoint(setting: Setting) -> Result:
    """Seconds and host memory of saving and of resuming."""
    shape, length = ("small", 32) if setting.is_tiny else ("3b", 1024)
    save = setting.work / "checkpoint"
    pairs = write_pairs(save / "pairs", [length] * 8)
    flags = _flags(setting, shape, pairs, length)
    first = run_trainer(setting, [*flags, "--train-iters", "2"], seconds=100, save=save / "run", saves=True)
    again = [*flags, "--train-iters", "3", "--auto-resume"]
    second = run_trainer(setting, again, seconds=100, save=save / "run", saves=True)
    rows = [{"run": "saved", **first}, {"run": "resumed", **second}]
    failed = [row["error"] for row in rows if "error" in row]
    if failed:
        return Result(passed=False, summary="; ".join(failed), rows=rows)
    return Result(
        passed=True,
        summary=f"saved in {first['save_seconds']:.1f} s, host memory {first['host_memory'] / GIB:.1f} GiB; "
        f"resumed run {second['seconds']:.1f} s, {second['host_memory'] / GIB:.1f} GiB",
        rows=rows,
    )


def trl(setting: Setting) -> Result:
    """benchmarks/train.py: 32 pairs a step, TRL at its best settings beside this trainer."""
    given = [path for path in (setting.reference, setting.data) if path is not None and path.is_dir()]
    if len(given) < 2 or setting.peers is None:
        raise SkippedError("needs the directories of --reference and --data, and --peers-dir")
    output = setting.work / "trl-figures.json"
    words = [
        *("--device", setting.device, "--reference", str(setting.reference), "--data", str(setting.data)),
        *("--peers-dir", str(setting.peers), "--trainers", "shared", "trl", "--rounds", "1", "--steps", "4"),
        *("--batch-size", "2" if setting.is_tiny else "32", "--json", str(output)),
        *("--max-tokens-per-micro-batch", "2048" if setting.is_tiny else "16384"),
        *([] if setting.is_tiny else ["--peer-micro-batch-size", "8"]),
    ]
    command = [sys.executable, str(ROOT / "benchmarks" / "train.py"), *words]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    if not output.exists():
        return Result(passed=False, summary=f"benchmarks/train.py: exit code {done.returncode}")
    figures = json.loads(output.read_text())
    if "trl" in figures["not_measured"]:
        return Result(passed=False, summary=f"TRL: {figures['not_measured']['trl']}", rows=[figures])
    rate = figures["pairs_per_second"]
    return Result(
        passed=done.returncode == 0,
        summary=f"{rate['shared'] / rate['trl']:.2f} times TRL in pairs a second (goal 2.0)",
        rows=[figures],
    )
