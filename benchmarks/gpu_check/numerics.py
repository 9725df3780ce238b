"""Parts that check numbers: the machine, kernels, losses, host synchronisations."""

import dataclasses
import itertools
import math
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_check.parts import Result, Setting, SkippedError
from benchmarks.gpu_check.training import run_trainer
from modellink_rm.base import engine_import  # noqa: F401 (before what needs the engine)
from modellink_rm.base.platform import detect_platform
from modellink_rm.doctor.examine import examine
from modellink_rm.model.attention.kernels import ATTENTION_KERNELS
from modellink_rm.model.attention.pieces import Piece
from modellink_rm.model.kernel_choice import attention_kernels, difference_from_reference

GOLDEN_TOLERANCE = 1e-4  # of a loss in float32: sums in another order, over eight steps of Adam
BF16_TOLERANCE = 5e-2  # 8 bits of mantissa
KERNEL_TOLERANCES = {torch.bfloat16: 3e-2, torch.float32: 1e-4}
MOST_SYNCS_A_STEP = 2  # the engine's count of examples, and the step's check that all is finite


def machine(setting: Setting) -> Result:
    """What `doctor` says, and the rate of products of an 8B model's layers at 8192 tokens."""
    report = examine(setting.work)
    problems = [problem.what for problem in report.problems]
    if report.devices is None:
        return Result(passed=False, summary="; ".join(problems))
    tokens, hidden, ffn = (64, 64, 96) if setting.is_tiny else (8192, 4096, 14336)
    shapes = [(tokens, hidden, 6 * hidden // 4), (tokens, hidden, 2 * ffn), (tokens, ffn, hidden)]
    rows: list[dict[str, Any]] = [dataclasses.asdict(report)]
    rows += [{"product": shape, "flops_per_second": _rate(shape, setting.device)} for shape in shapes]
    peak = report.devices.matmul_flops_per_second["bfloat16"] / 1e12
    slowest = min(row["flops_per_second"] for row in rows[1:]) / 1e12
    summary = f"matmul peak {peak:,.3g} TFLOP/s in bfloat16, {slowest:,.3g} at the layers' shapes"
    return Result(passed=True, summary="; ".join([summary, *problems]), rows=rows)


def _rate(shape: tuple[int, int, int], device: str) -> float:
    """Operations a second of [rows, inner] x [inner, columns] in bfloat16, the best of five."""
    rows, inner, columns = shape
    left = torch.randn(rows, inner, device=device, dtype=torch.bfloat16)
    right = torch.randn(inner, columns, device=device, dtype=torch.bfloat16)
    spent = []
    for _ in range(6):  # the first loads the kernel
        _synchronize(device)
        started = time.perf_counter()
        torch.mm(left, right)
        _synchronize(device)
        spent.append(time.perf_counter() - started)
    return 2 * rows * inner * columns / min(spent[1:])


def _synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def kernels(setting: Setting) -> Result:
    """Every attention kernel against the reference in float64, forward and backward."""
    platform = detect_platform()
    head_dims, groups = ((16,), (2,)) if setting.is_tiny else ((64, 80, 96, 128), (1, 4, 8))
    rows = []
    for dtype, head_dim, group in itertools.product(KERNEL_TOLERANCES, head_dims, groups):
        for layout, pieces in _layouts(setting).items():
            if layout == "8k tokens" and (head_dim, group) != (128, 4):
                continue
            for name in attention_kernels(platform):
                found = _difference(
                    name, platform.device, dtype, pieces, head_dim=head_dim, heads_per_group=group
                )
                case = {"dtype": str(dtype), "head_dim": head_dim, "heads_per_group": group, "layout": layout}
                rows.append({"kernel": name, **case, **found})
    wrong = [row for row in rows if row.get("passed") is False]
    works = Counter(row["kernel"] for row in rows if row.get("passed"))
    names = attention_kernels(platform)
    counts = ", ".join(f"{name} {works[name]}" for name in names)
    return Result(
        passed=not wrong and bool(works),
        summary=f"of {len(rows) // len(names)} cases right: {counts}; wrong: {len(wrong)}",
        rows=rows,
    )


def _layouts(setting: Setting) -> dict[str, Sequence[Piece]]:
    """Packed pieces with a shared prefix, single queries, and many tokens."""
    length = 40 if setting.is_tiny else 512
    tail = length // 4
    layouts: dict[str, Sequence[Piece]] = {
        "packed": (
            Piece((0, length), ((0, length),)),
            Piece((length, length + tail), ((0, tail), (length, length + tail))),
        ),
        "one query": [Piece((number, number + 1), ((0, length - 3 * number),)) for number in range(4)],
    }
    if not setting.is_tiny:
        starts = range(0, 8192, 1024)
        layouts["8k tokens"] = [Piece((start, start + 1024), ((start, start + 1024),)) for start in starts]
    return layouts


def _difference(
    name: str,
    device: torch.device,
    dtype: torch.dtype,
    pieces: Sequence[Piece],
    *,
    head_dim: int,
    heads_per_group: int,
) -> dict[str, Any]:
    """The difference of a kernel from the reference, and whether it is small; or the error it raised."""
    try:
        difference = difference_from_reference(
            ATTENTION_KERNELS[name],
            device,
            dtype,
            pieces=pieces,
            heads=2 * heads_per_group,
            groups=2,
            head_dim=head_dim,
        )
    except Exception as error:  # a kernel that is not installed or has no such heads: any kind
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}
    return {"difference": difference, "passed": difference < KERNEL_TOLERANCES[dtype]}


def losses(setting: Setting) -> Result:
    """Losses in float32 against a CPU's, bfloat16 near them, and a resumed run bit for bit."""
    work = setting.work / "losses"
    flags = golden_flags(work)
    golden = golden_losses()
    runs = {
        "float32": run_trainer(setting, flags, seconds=120, save=work / "float32"),
        "bfloat16": run_trainer(setting, [*flags, "--bf16"], seconds=120, save=work / "bf16"),
    }
    exact = [*flags, "--deterministic", "--save-interval", "4"]
    runs["whole"] = run_trainer(setting, exact, seconds=120, save=work / "whole")
    first = [*exact, "--exit-interval", "4"]
    runs["left"] = run_trainer(setting, first, seconds=120, save=work / "resumed", saves=True)
    resumed = [*exact, "--auto-resume"]
    runs["resumed"] = run_trainer(setting, resumed, seconds=120, save=work / "resumed", saves=True)
    rows = [{"run": name, **run} for name, run in runs.items()]
    failed = {name: run["error"] for name, run in runs.items() if "error" in run and name != "left"}
    if failed:
        return Result(passed=False, summary=str(failed), rows=rows)
    return _compared_losses(golden, runs, rows)


def _compared_losses(
    golden: list[float], runs: dict[str, dict[str, Any]], rows: list[dict[str, Any]]
) -> Result:
    found = {name: [step["loss"] for step in run["steps"]] for name, run in runs.items() if "steps" in run}
    full = largest_difference(found["float32"], golden)
    half = largest_difference(found["bfloat16"], golden)
    is_equal = found["resumed"] == found["whole"]
    return Result(
        passed=full < GOLDEN_TOLERANCE and half < BF16_TOLERANCE and is_equal,
        summary=f"float32 differs from the CPU by {full:.1e}, bfloat16 by {half:.1e}; the resumed run is "
        + ("equal" if is_equal else "DIFFERENT"),
        rows=rows,
    )


def largest_difference(found: list[float], expected: list[float]) -> float:
    """Largest difference of two runs' losses; infinite where one is shorter or not finite."""
    if len(found) != len(expected) or not all(map(math.isfinite, found)):
        return math.inf
    return max(abs(one - other) for one, other in zip(found, expected, strict=True))


def golden_losses() -> list[float]:
    """The losses that tests/golden holds."""
    from tests.golden.test_golden_losses import GOLDEN

    lines = (GOLDEN / "llama.txt").read_text().splitlines()[1:]
    return [float(line.split()[1]) for line in lines]


def golden_flags(work: Path) -> list[str]:
    """The flags of the run whose losses tests/golden holds, and its files."""
    from tests.golden.test_golden_losses import flags_of_run, write_files

    write_files("llama", work)
    return flags_of_run("llama", work)


def syncs(setting: Setting) -> Result:
    """Where a step waits for the device."""
    if setting.device == "cpu":
        raise SkippedError("a CPU has nothing to wait for")
    from modellink_rm.commands.train import main as train
    from modellink_rm.train import trainer

    places: list[list[str]] = []
    step = trainer.train_step  # type: ignore[attr-defined]

    def watched(*arguments: Any, **words: Any) -> Any:
        torch.cuda.set_sync_debug_mode("warn")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = step(*arguments, **words)
        torch.cuda.set_sync_debug_mode("default")
        found = [one for one in caught if "synchroniz" in str(one.message)]
        places.append([f"{Path(one.filename).name}:{one.lineno}" for one in found])
        return result

    trainer.train_step = watched  # type: ignore[attr-defined]
    work = setting.work / "syncs"
    train(["--stage", "rm", "--is-pairwise-dataset", *golden_flags(work), "--bf16"])
    last = places[-1]
    return Result(
        passed=len(last) <= MOST_SYNCS_A_STEP,
        summary=f"{len(last)} in a step, {MOST_SYNCS_A_STEP} allowed: {', '.join(last)}",
        rows=[{"step": number + 1, "places": found} for number, found in enumerate(places)],
    )
