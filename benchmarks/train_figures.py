"""What train.py reports of the trainers: their figures, the goals, and the losses side by side."""

import argparse
import dataclasses
import json
import os
import statistics
from collections.abc import Iterable
from typing import Any

from trainers import LABELS, MODEL, Run, Setting

# Of the trainer with shared prompts: how many times as fast as each other one it is at least; the shares of
# TRL's peak memory that it takes at most; and of the rate of matrix products that it reaches at least.
SPEED_GOALS = {"trl": 2.6, "llama_factory": 4.0, "plain_loop": 1.45}
CUDA_SPEED_GOALS = {"trl": 2.0}
RANKING_SPEED_GOALS = {"trl": 6.0}  # with four responses
MEMORY_GOAL = 0.6
# With --lora, of which TRL alone is compared.
LORA_SPEED_GOALS = {"trl": 2.5}
LORA_MEMORY_GOAL = 0.5
# Of --stage dpo.
DPO_SPEED_GOALS = {"trl": 2.5}
DPO_MEMORY_GOAL = 0.5
SHARE_GOALS = {"cpu": 0.6, "cuda": 0.5}


@dataclasses.dataclass(frozen=True)
class Figures:
    """What is reported of a trainer, over the timed steps."""

    tokens_per_second: float
    pairs_per_second: float
    seconds_per_step: float
    peak_memory_mb: float
    flops_per_second: float


def figures_of(setting: Setting, rounds: list[Run]) -> Figures:
    """Rates over the timed steps, each step's time the median over rounds."""
    timed = range(setting.arguments.warm_up, setting.arguments.steps)
    seconds = sum(statistics.median(run.seconds[step] for run in rounds) for step in timed)
    flops = sum(statistics.median(run.flops[step] for run in rounds) for step in timed)
    return Figures(
        tokens_per_second=sum(setting.step_tokens(step) for step in timed) / seconds,
        pairs_per_second=len(timed) * setting.pairs_of_a_step / seconds,
        seconds_per_step=seconds / len(timed),
        peak_memory_mb=max(run.peak_memory_mb for run in rounds),
        flops_per_second=flops / seconds,
    )


def print_conditions(arguments: argparse.Namespace, setting: Setting) -> None:
    timed = range(arguments.warm_up, arguments.steps)
    tokens = sum(setting.step_tokens(step) for step in timed)
    model = f"{arguments.shape}, bfloat16" if arguments.device == "cuda" else f"{MODEL}, float32, one thread"
    model = f"adapters of rank {arguments.lora}, {model}" if arguments.lora else model
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    print(
        f"\n{model}; {setting.pairs_of_a_step} pairs a step, {len(timed)} steps timed after "
        f"{arguments.warm_up} of warm-up, {tokens:,} real tokens, {arguments.rounds} rounds\n"
        f"ours: --max-tokens-per-micro-batch {arguments.max_tokens_per_micro_batch} "
        f"--compile {arguments.compile} {' '.join(arguments.trainer_flags)}\n"
        f"load of the machine over 1, 5 and 15 minutes: {load}; {os.cpu_count()} cores\n"
    )


def print_table(figures: dict[str, Figures], peak: float, missing: dict[str, str]) -> None:
    print(f"matrix products: {peak / 1e9:,.1f} GFLOP/s\n")
    print("| trainer | real tokens/s | pairs/s | s a step | peak memory, MB | GFLOP/s | of the peak |")
    print("|---|---|---|---|---|---|---|")
    for name, row in figures.items():
        print(
            f"| {LABELS[name]} | {row.tokens_per_second:,.0f} | {row.pairs_per_second:.3f} | "
            f"{row.seconds_per_step:.2f} | {row.peak_memory_mb:,.0f} | {row.flops_per_second / 1e9:,.1f} | "
            f"{row.flops_per_second / peak:.2f} |"
        )
    for name, reason in missing.items():
        print(f"\n{LABELS[name]}: not measured: {reason}")


def print_goals(arguments: argparse.Namespace, figures: dict[str, Figures], peak: float) -> None:
    shared = figures.get("shared")
    if shared is None:
        return
    print("\nprompts shared:")
    goals = CUDA_SPEED_GOALS if arguments.device == "cuda" else SPEED_GOALS
    goals = goals if arguments.responses == 2 else RANKING_SPEED_GOALS
    goals = LORA_SPEED_GOALS if arguments.lora else goals
    goals = DPO_SPEED_GOALS if arguments.stage == "dpo" else goals
    for name, goal in goals.items():
        if name in figures:
            ratio = shared.pairs_per_second / figures[name].pairs_per_second
            print(f"  {ratio:5.2f} times the speed of {LABELS[name]} (goal {goal})")
    share = shared.flops_per_second / peak
    print(f"  {share:5.2f} of the rate of matrix products (goal {SHARE_GOALS[arguments.device]})")
    if "trl" in figures:
        memory = shared.peak_memory_mb / figures["trl"].peak_memory_mb
        goal = LORA_MEMORY_GOAL if arguments.lora else MEMORY_GOAL
        goal = DPO_MEMORY_GOAL if arguments.stage == "dpo" else goal
        print(f"  {memory:5.2f} of TRL's peak memory (goal under {goal})")


def print_losses(arguments: argparse.Namespace, runs: dict[str, list[Run]]) -> float:
    """Print the loss of every step side by side; the largest difference of any two runs in a step."""
    print("\n| step | " + " | ".join(LABELS[name] for name in runs) + " |")
    print("|---" * (len(runs) + 1) + "|")
    largest = 0.0
    for step in range(arguments.steps):
        print(
            f"| {step + 1} | "
            + " | ".join(f"{rounds[0].losses[step]:.7f}" for rounds in runs.values())
            + " |"
        )
        every = [run.losses[step] for rounds in runs.values() for run in rounds]
        largest = max(largest, max(every) - min(every))
    print(f"\nlargest difference in a step's loss, over all rounds: {largest:.1e}")
    return largest


def write_json(
    arguments: argparse.Namespace,
    figures: dict[str, Figures],
    runs: dict[str, list[Run]],
    peaks: list[dict[str, float]],
    missing: dict[str, str],
) -> None:
    """The figures by trainer; `matmul_share` is that of the prompts shared."""
    peak = statistics.median(max(rates.values()) for rates in peaks)
    shares = {name: row.flops_per_second / peak for name, row in figures.items()}
    content = {
        "real_tokens_per_second": {name: row.tokens_per_second for name, row in figures.items()},
        "pairs_per_second": {name: row.pairs_per_second for name, row in figures.items()},
        "peak_memory_mb": {name: row.peak_memory_mb for name, row in figures.items()},
        "matmul_share": shares.get("shared"),
        "matmul_share_by_trainer": shares,
        "matmul_flops_per_second": peak,
        "settings": {name: value for name, value in vars(arguments).items() if is_plain(value)},
        "runs": {name: [dataclasses.asdict(run) for run in rounds] for name, rounds in runs.items()},
        "matmul_rates": peaks,
        "not_measured": missing,
    }
    arguments.json.write_text(json.dumps(content, indent=2) + "\n")
    print(f"figures: {arguments.json}")


def is_plain(value: Any) -> bool:
    """Whether it says something of the measurement, and not where files lie."""
    parts: Iterable[Any] = value if isinstance(value, list) else [value]
    return all(isinstance(part, int | float | str) for part in parts)
