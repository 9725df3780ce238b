"""Training speed, memory and losses of this trainer, of others, and of a plain loop, in one run.

    python benchmarks/train.py --reference ../shared/reference --data ../shared/data --peers-dir peers

All train on the same pairs (dpo_en_demo, template llama2, cut at 1024 tokens) from the same weights and value
head (mid-llama of REFERENCE/make_models.py), float32, one thread, four pairs a step, AdamW:

- packed: pretrain_rm.py --no-prefix-sharing; shared: pretrain_rm.py;
- trl, llama_factory, openrlhf: from pip, each in an environment below --peers-dir, made if it is missing;
- plain_loop: benchmarks/plain_loop.py, without padding, over transformers' model.

Each is a process of its own that runs the same steps; the first --warm-up steps, and all that comes before
them, are not timed. Rounds go in turns; the time of a step is the median over rounds. The rate of matrix
products is measured between any two of them. Losses must agree, or the exit code is 1.

--responses K measures rankings: each prompt has its two responses and those of the pairs after it, K in all.
This trainer gets each prompt once with its K responses, the others get its K (K - 1) / 2 pairs spelled out;
--batch-size then counts prompts.

--stage dpo trains the language model itself on the pairs, beside TRL's DPOTrainer, whose reference is
computed before training as ours is, and benchmarks/plain_dpo_loop.py.

Words after `--` go to this trainer. --device cuda measures bfloat16 at sizes of use on a GPU. --lora RANK
trains adapters of all linear layers and the head, ours and TRL's with PEFT, from the same adapter.
"""

import argparse
import dataclasses
import itertools
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from peers.environments import PEERS, peer_python
from processes import ROOT, run_measured
from random_model import write_random_adapter, write_random_model
from trainers import SEQ_LENGTH, Run, Setting, measure_peak, run_ours, run_runner

from modellink_rm.base.errors import UserError, run_command
from modellink_rm.dataset.dataset import open_dataset
from modellink_rm.dataset.reader import ExampleReader

OURS = {"packed": "ours, packed", "shared": "ours, prompts shared"}
LABELS = {
    **OURS,
    **{name: peer.label for name, peer in PEERS.items()},
    "plain_loop": "plain loop, no padding",
}
MODEL = "mid-llama"
VOCAB_SIZE = 32000
# How far losses of a step may lie apart: float32 sums in another order; bfloat16 keeps 8 bits.
TOLERANCE = {"cpu": 1e-5, "cuda": 5e-2}
# (what is divided, by what, at least or at most): the goals for the prompts shared.
SPEED_GOALS = {"trl": 2.6, "llama_factory": 4.0, "plain_loop": 1.45}
CUDA_SPEED_GOALS = {"trl": 2.0}
RANKING_SPEED_GOALS = {"trl": 6.0}  # with four responses
MEMORY_GOAL = 0.6
# With --lora, of which TRL alone is compared.
LORA_SPEED_GOALS = {"trl": 2.5}
LORA_MEMORY_GOAL = 0.5
LORA_TRAINERS = ("packed", "shared", "trl")
# Of --stage dpo.
DPO_SPEED_GOALS = {"trl": 2.5}
DPO_MEMORY_GOAL = 0.5
DPO_TRAINERS = ("packed", "shared", "trl", "plain_loop")
SHARE_GOALS = {"cpu": 0.6, "cuda": 0.5}


@dataclasses.dataclass(frozen=True)
class Figures:
    """What is reported of a trainer, over the timed steps."""

    tokens_per_second: float
    pairs_per_second: float
    seconds_per_step: float
    peak_memory_mb: float
    flops_per_second: float


def main(argv: Sequence[str]) -> int:
    arguments = parse_arguments(argv)
    check_device(arguments)
    pythons, missing = find_pythons(arguments)
    with tempfile.TemporaryDirectory(prefix="train-benchmark-", dir=arguments.work_dir) as work:
        setting = prepare(arguments, Path(work))
        runs, peaks = measure(setting, pythons, missing)
    print_conditions(arguments, setting)
    peak = statistics.median(max(rates.values()) for rates in peaks)
    figures = {name: figures_of(setting, rounds) for name, rounds in runs.items()}
    print_table(figures, peak, missing)
    print_goals(arguments, figures, peak)
    largest = print_losses(arguments, runs)
    if arguments.json is not None:
        write_json(arguments, figures, runs, peaks, missing)
    if largest > TOLERANCE[arguments.device]:
        print(f"losses differ by {largest:.1e}, above {TOLERANCE[arguments.device]:.0e}", file=sys.stderr)
        return 1
    return 0


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    argv, trainer_flags = list(argv), []
    if "--" in argv:
        at = argv.index("--")
        argv, trainer_flags = argv[:at], argv[at + 1 :]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--reference", type=Path, required=True, help="directory of make_models.py")
    parser.add_argument("--data", type=Path, required=True, help="directory of dpo_en_demo.json")
    parser.add_argument("--peers-dir", type=Path, help="environments of the trainers from pip")
    parser.add_argument(
        "--peer-python", action="append", default=[], metavar="NAME=PATH", help="use this python for a peer"
    )
    parser.add_argument("--stage", choices=("rm", "dpo"), default="rm", help="(default: %(default)s)")
    parser.add_argument(
        "--trainers", nargs="+", choices=LABELS, help="default all that have the stage; with --lora TRL alone"
    )
    parser.add_argument("--steps", type=int, default=8, help="of each process (default: %(default)s)")
    parser.add_argument("--warm-up", type=int, default=2, help="first steps not timed (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=2, help="(default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=4, help="pairs of a step (default: %(default)s)")
    parser.add_argument("--responses", type=int, default=2, help="to each prompt (default: %(default)s)")
    parser.add_argument("--lr", default="1e-5", help="(default: %(default)s)")
    parser.add_argument(
        "--max-tokens-per-micro-batch",
        type=int,
        default=2048,
        help="of this trainer: tokens it computes at a time (default: %(default)s)",
    )
    parser.add_argument(
        "--peer-micro-batch-size",
        type=int,
        help="of TRL and LLaMA-Factory: pairs of a forward pass, where a step's do not fit (default all)",
    )
    parser.add_argument(
        "--compile", default="always", help="of this trainer, as in a long run (default: %(default)s)"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(default: %(default)s)")
    parser.add_argument(
        "--shape", choices=("1b", "3b", "8b"), default="1b", help="with cuda (default: %(default)s)"
    )
    parser.add_argument("--lora", type=int, metavar="RANK", help="train adapters of this rank, and the head")
    parser.add_argument("--recompute", action="store_true", help="with cuda: all checkpoint activations")
    parser.add_argument("--work-dir", type=Path, help="where models and checkpoints go for the while")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args(argv)
    if not 0 <= arguments.warm_up < arguments.steps:
        raise UserError(f"--warm-up {arguments.warm_up} leaves none of --steps {arguments.steps} to time")
    if arguments.responses < 2:
        raise UserError(f"--responses {arguments.responses}: a pair has 2")
    micro_batch_size = arguments.peer_micro_batch_size
    num_pairs = arguments.batch_size * math.comb(arguments.responses, 2)
    if micro_batch_size is not None and (micro_batch_size < 1 or num_pairs % micro_batch_size):
        pairs = (
            "" if arguments.responses == 2 else f" x {math.comb(arguments.responses, 2)} pairs of a prompt"
        )
        raise UserError(
            f"--peer-micro-batch-size {micro_batch_size} does not divide --batch-size "
            f"{arguments.batch_size}{pairs}"
        )
    known = LORA_TRAINERS if arguments.lora else tuple(LABELS)
    known = DPO_TRAINERS if arguments.stage == "dpo" else known
    arguments.trainers = arguments.trainers or list(known)
    if not set(arguments.trainers) <= set(known):
        kind = "--stage dpo" if arguments.stage == "dpo" else "--lora"
        raise UserError(f"{kind} compares {', '.join(known)}; leave others out of --trainers")
    if arguments.stage == "dpo" and (arguments.lora or arguments.responses != 2):
        raise UserError("--stage dpo is compared on pairs and whole models; leave --lora and --responses out")
    arguments.trainer_flags = trainer_flags
    return arguments


def check_device(arguments: argparse.Namespace) -> None:
    if arguments.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise UserError("--device cuda needs a GPU, and torch finds none")


def find_pythons(arguments: argparse.Namespace) -> tuple[dict[str, str], dict[str, str]]:
    """(python of each trainer to run, why a peer is missing)."""
    given = dict(entry.split("=", 1) for entry in arguments.peer_python)
    pythons: dict[str, str] = {}
    missing: dict[str, str] = {}
    for name in arguments.trainers:
        if name not in PEERS or name in given:
            pythons[name] = given.get(name, sys.executable)
            continue
        if arguments.peers_dir is None:
            raise UserError(f"{LABELS[name]} needs --peers-dir, or leave it out of --trainers")
        found = peer_python(name, arguments.peers_dir)
        if isinstance(found, Path):
            pythons[name] = str(found)
        else:
            missing[name] = found
    return pythons, missing


def prepare(arguments: argparse.Namespace, work: Path) -> Setting:
    """Write the model and the pairs, and read them as the trainer does."""
    make_models = str(arguments.reference / "make_models.py")
    run_measured([sys.executable, make_models, str(work), "--only", MODEL])
    model = work / MODEL
    if arguments.device == "cuda":
        write_random_model(arguments.shape, work / arguments.shape, device="cuda", tokenizer_of=model)
        model = work / arguments.shape
    examples = json.loads((arguments.data / "dpo_en_demo.json").read_text())
    handler = "SharegptStylePairwiseHandler"
    if arguments.responses > 2:
        examples, handler = rankings_of(examples, arguments.responses), "RankedResponsesHandler"
    records = work / "records.json"
    # No more than is trained: before --stage dpo, the reference is computed over all of them.
    records.write_text(json.dumps(examples[: (arguments.steps + 1) * arguments.batch_size]))
    run_measured(
        [
            *(sys.executable, str(ROOT / "preprocess_data.py")),
            *("--input", str(records), "--output-prefix", str(work / "pairs")),
            *("--handler-name", handler, "--prompt-type", "llama2"),
            *("--tokenizer-name-or-path", str(model)),
        ]
    )
    if arguments.lora:
        write_random_adapter(model, work / "adapter", rank=arguments.lora)
    dataset = open_dataset(work / "pairs")
    reader = ExampleReader(
        seq_length=SEQ_LENGTH, truncation="right", num_closing_tokens=0, num_ids=VOCAB_SIZE
    )
    number = arguments.steps * arguments.batch_size
    if number > len(dataset):
        raise UserError(f"--steps {arguments.steps} need {number} pairs, the data have {len(dataset)}")
    setting = Setting(arguments, work, model, [reader.read(dataset, row) for row in range(number)])
    pairs = [
        {
            "chosen_ids": chosen.input_ids.tolist(),
            "rejected_ids": rejected.input_ids.tolist(),
            "num_prompt_tokens": chosen.num_prompt_tokens,
        }
        for example in setting.examples
        for chosen, rejected in itertools.combinations(example.responses, 2)
    ]
    setting.pairs.write_text(json.dumps(pairs))
    return setting


def rankings_of(pairs: Sequence[dict[str, Any]], num_responses: int) -> list[dict[str, Any]]:
    """The prompts of sharegpt pairs, each with its own two responses and those of the pairs after it."""
    roles = {"human": "user", "gpt": "assistant", "system": "system"}
    texts = [pair[side]["value"] for pair in pairs for side in ("chosen", "rejected")]
    rankings = []
    for number, pair in enumerate(pairs):
        turns = [{"role": roles[turn["from"]], "content": turn["value"]} for turn in pair["conversations"]]
        responses = [texts[(2 * number + place) % len(texts)] for place in range(num_responses)]
        ranks = list(range(1, num_responses + 1))
        rankings.append({"prompt": turns, "responses": responses, "ranks": ranks})
    return rankings


def measure(
    setting: Setting, pythons: dict[str, str], missing: dict[str, str]
) -> tuple[dict[str, list[Run]], list[dict[str, float]]]:
    """(runs of each trainer, one a round; rates of matrix products by size, measured in between).

    A trainer of others that fails, for want of memory say, is left out from then on and goes to `missing`.
    """
    runs: dict[str, list[Run]] = {name: [] for name in pythons}
    peaks = [measure_peak(setting)]
    for number in range(setting.arguments.rounds):
        for name in tuple(runs):
            started = time.perf_counter()
            try:
                run = run_ours(setting, name) if name in OURS else run_runner(setting, name, pythons[name])
            except UserError as error:
                if name not in PEERS:
                    raise
                print(f"round {number + 1}, {LABELS[name]}: {error}", file=sys.stderr, flush=True)
                said = [line for line in str(error).split(r"\n") if line.strip()]  # a UserError is one line
                missing[name] = f"failed: {said[-1][-200:]}"
                del runs[name]
                continue
            runs[name].append(run)
            peaks.append(measure_peak(setting))
            print(
                f"round {number + 1}, {LABELS[name]}: {median_step(run, setting):.2f} s a step, "
                f"{run.peak_memory_mb:,.0f} MB, {time.perf_counter() - started:.0f} s in all",
                flush=True,
            )
    return runs, peaks


def median_step(run: Run, setting: Setting) -> float:
    return statistics.median(run.seconds[setting.arguments.warm_up :])


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


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
