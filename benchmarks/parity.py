"""Draw this trainer's losses over those that other reward-model trainers recorded.

    python benchmarks/parity.py --reference ../shared/reference --data ../shared/data --output parity.png

From the weights, the head, the pairs and the settings of the recorded runs (REFERENCE/README.md),
preprocess_data.py and pretrain_rm.py train for 100 steps at each learning rate. The figure shows the loss of
every step over LLaMA-Factory's, and the difference below; the table holds the largest differences from
each trainer. Words after `--` go to the trainer, to see the same figure when the model is divided:

    python benchmarks/parity.py ... --processes 2 -- --tensor-model-parallel-size 2 --sequence-parallel

Data parallelism cannot be compared in this way: the recorded runs have one pair per step.

Families that are not in the recorded runs are trained beside TRL itself, from tiny random weights:

    python benchmarks/parity.py --families llama-3.1 qwen3 --peer-python trl=PATH --steps 20

The names are those of tests/parity/family_cases.py; PATH is a python with trl 1.16.0. Of the words after `--`
TRL follows `--router-aux-loss-coef`, `--centering-weight`, and `--margin-weight 1`, with which the pairs have
margins.

Losses that other trainers share are trained beside their own functions in the same way:

    python benchmarks/parity.py --losses --peer-python trl=PATH --peer-python openrlhf=PATH --steps 20
"""

import argparse
import itertools
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from modellink_rm.base.errors import UserError, run_command
from modellink_rm.base.registry import unknown_name_message

ROOT = Path(__file__).parents[1]
MODEL = "tiny-llama"
PEERS = {"lf": "LLaMA-Factory", "trl": "TRL", "orlhf": "OpenRLHF"}
LEARNING_RATES = ("1e-7", "1e-4")
NUM_STEPS = 100
# (loss, chosen - rejected score, gradient norm) of every step, as in runs.json.
Run = list[list[float]]
# Colours: theirs, ours, the peers' spread.
THEIRS, OURS, SPREAD = "#f0a35e", "#1f4e79", "#d9d9d9"


def main(argv: Sequence[str]) -> int:
    arguments = parse_arguments(argv)
    if arguments.families or arguments.losses is not None:
        return train_beside(arguments)
    for flag in ("reference", "data"):
        if getattr(arguments, flag) is None:
            raise UserError(f"--{flag} is needed to compare with the recorded runs, or --families")
    if arguments.output is not None:
        check_matplotlib()
    recorded = read_recorded(arguments.reference / "runs.json", arguments.lr)
    if not 1 <= arguments.steps <= NUM_STEPS:
        raise UserError(f"--steps must lie in 1..{NUM_STEPS}, the steps that were recorded")
    with tempfile.TemporaryDirectory(prefix="parity-") as work:
        ours = train_all(arguments, Path(work))
    peers = {lr: {name: run[: arguments.steps] for name, run in recorded[lr].items()} for lr in ours}
    figures = {lr: compare(ours[lr], peers[lr]) for lr in ours}
    print_table(figures, arguments.steps)
    if arguments.json is not None:
        content = {"steps": arguments.steps, "trainer_flags": arguments.trainer_flags, "figures": figures}
        arguments.json.write_text(json.dumps({**content, "runs": ours}, indent=2) + "\n")
        print(f"figures: {arguments.json}")
    if arguments.output is not None:
        draw(ours, {lr: runs["lf"] for lr, runs in peers.items()}, figures, arguments)
        print(f"plot: {arguments.output}")
    return 0


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    argv, trainer_flags = list(argv), []
    if "--" in argv:
        at = argv.index("--")
        argv, trainer_flags = argv[:at], argv[at + 1 :]
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--reference", type=Path, help="directory of the recorded runs")
    parser.add_argument("--data", type=Path, help="directory of dpo_en_demo.json")
    parser.add_argument("--families", nargs="+", default=(), help="families to train beside TRL")
    parser.add_argument(
        "--losses", nargs="*", metavar="LOSS", help="losses to train beside those who share them; default all"
    )
    parser.add_argument(
        "--peer-python",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="python of trl or openrlhf, for --families and --losses",
    )
    parser.add_argument("--output", type=Path, help="picture to write; without it only the table")
    parser.add_argument("--json", type=Path, help="file for the figures of the table, and for every step")
    parser.add_argument(
        "--lr", nargs="+", choices=LEARNING_RATES, default=LEARNING_RATES, help="default both"
    )
    parser.add_argument("--steps", type=int, default=NUM_STEPS, help="(default: %(default)s)")
    parser.add_argument("--processes", type=int, default=1, help="of the trainer (default: %(default)s)")
    arguments = parser.parse_args(argv)
    arguments.trainer_flags = trainer_flags
    return arguments


def train_beside(arguments: argparse.Namespace) -> int:
    """Compare families with TRL, or losses with those who share them; the exit code."""
    given = dict(word.partition("=")[::2] for word in arguments.peer_python)
    pythons = {name: Path(python) for name, python in given.items()}
    named = " ".join(arguments.peer_python) or "nothing"
    if not pythons or not all(
        name in ("trl", "openrlhf") and path.is_file() for name, path in pythons.items()
    ):
        raise UserError(f"--families needs --peer-python trl=PATH, --losses openrlhf=PATH too; got {named}")
    if arguments.families and "trl" not in pythons:
        raise UserError(f"--families needs --peer-python trl=PATH; got {named}")
    sys.path.insert(0, str(ROOT))  # for the tiny models of the tests
    from benchmarks.beside import LOSSES, compare_families, compare_losses

    if arguments.families:
        return compare_families(
            arguments.families,
            peer_python=pythons["trl"],
            steps=arguments.steps,
            flags=arguments.trainer_flags,
        )
    for name in arguments.losses:
        if name not in LOSSES:
            raise UserError(unknown_name_message("loss of --losses", name, LOSSES))
    return compare_losses(arguments.losses or list(LOSSES), pythons=pythons, steps=arguments.steps)


def check_matplotlib() -> None:
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UserError(
            "--output needs matplotlib, the extra 'plot': pip install -e '.[plot]'; without --output only "
            "the table is made"
        ) from None


def read_recorded(path: Path, learning_rates: Sequence[str]) -> dict[str, dict[str, Run]]:
    """Learning rate -> peer -> run."""
    if not path.is_file():
        raise UserError(f"--reference: {path} is missing")
    runs = json.loads(path.read_text())["runs"]
    return {lr: {peer: runs[f"{peer}_llama_llama2_{lr}"] for peer in PEERS} for lr in learning_rates}


def train_all(arguments: argparse.Namespace, work: Path) -> dict[str, Run]:
    """Our run at each learning rate."""
    records = arguments.data / "dpo_en_demo.json"
    if not records.is_file():
        raise UserError(f"--data: {records} is missing")
    pairs = work / "pairs.json"
    pairs.write_text(json.dumps(json.loads(records.read_text())[:NUM_STEPS], ensure_ascii=False))
    run_python(arguments.reference / "make_models.py", str(work), "--only", MODEL)
    run_python(
        ROOT / "preprocess_data.py",
        *("--input", str(pairs), "--output-prefix", str(work / "pairs")),
        *("--handler-name", "SharegptStylePairwiseHandler", "--prompt-type", "llama2"),
        *("--tokenizer-name-or-path", str(work / MODEL)),
    )
    return {lr: train(arguments, work, lr) for lr in arguments.lr}


def train(arguments: argparse.Namespace, work: Path, learning_rate: str) -> Run:
    save = work / f"run_{learning_rate}"
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(arguments.processes)]
    run_python(
        *(launcher if arguments.processes > 1 else []),
        ROOT / "pretrain_rm.py",
        *("--stage", "rm", "--is-pairwise-dataset", "--load-checkpoint-loosely", "--prompt-type", "llama2"),
        *("--load", str(work / MODEL), "--data-path", str(work / "pairs"), "--split", "100,0,0"),
        *("--no-shuffle", "--seq-length", "1024", "--micro-batch-size", "1", "--global-batch-size", "1"),
        *("--train-iters", str(arguments.steps), "--lr", learning_rate, "--lr-decay-style", "constant"),
        *("--weight-decay", "0", "--clip-grad", "1.0", "--adam-beta1", "0.9", "--adam-beta2", "0.999"),
        *("--adam-eps", "1e-8", "--save", str(save)),
        *arguments.trainer_flags,
    )
    rows = [json.loads(line) for line in (save / "metrics.jsonl").read_text().splitlines()]
    return [[row["loss"], row["margin"], row["grad_norm"]] for row in rows if "loss" in row]


def run_python(*words: str | Path) -> None:
    print("$ python " + " ".join(map(str, words)), flush=True)
    done = subprocess.run([sys.executable, *map(str, words)])
    if done.returncode:
        raise UserError(f"the command above failed with exit code {done.returncode}")


def compare(ours: Run, peers: dict[str, Run]) -> dict[str, dict[str, float]]:
    """The largest differences from each peer over the steps, and of the peers among themselves."""
    figures = {name: largest_differences(ours, peers[name]) for name in PEERS}
    among = [largest_differences(one, other) for one, other in itertools.combinations(peers.values(), 2)]
    figures["peers"] = {key: float(np.max([part[key] for part in among])) for key in among[0]}
    return figures


def largest_differences(one: Run, other: Run) -> dict[str, float]:
    """NaN where a number is, which Python's own maximum may pass over."""
    steps = zip(one, other, strict=True)
    apart = [(abs(a[0] - b[0]), abs(a[1] - b[1]), abs(a[2] - b[2]) / abs(b[2])) for a, b in steps]
    loss, margin, norm = map(float, np.max(apart, axis=0))
    return {"loss": loss, "margin": margin, "grad_norm_relative": norm}


def print_table(figures: dict[str, dict[str, dict[str, float]]], steps: int) -> None:
    columns = "loss", "margin", "grad norm, relative"
    for lr, rows in figures.items():
        print(f"\nlr {lr}, {steps} steps: largest difference of")
        print(f"{'':32s}" + "".join(f"{column:>24s}" for column in columns))
        for name, values in rows.items():
            label = "peers among themselves" if name == "peers" else f"this trainer and {PEERS[name]}"
            print(f"{label:32s}" + "".join(f"{value:24.2e}" for value in values.values()))
    print()


def draw(
    ours: dict[str, Run],
    theirs: dict[str, Run],
    figures: dict[str, dict[str, dict[str, float]]],
    arguments: argparse.Namespace,
) -> None:
    """Loss over LLaMA-Factory's above, the difference below; a column for each learning rate."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with pyplot.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        figure, axes = pyplot.subplots(
            2,
            len(ours),
            figsize=(6.4 * len(ours), 6.4),
            sharex=True,
            squeeze=False,
            height_ratios=(3, 2),
            layout="constrained",
        )
        for column, lr in enumerate(ours):
            draw_loss(axes[0][column], lr, ours[lr], theirs[lr])
            draw_difference(axes[1][column], ours[lr], theirs[lr], figures[lr])
        how = " ".join(arguments.trainer_flags) or "one process"
        figure.suptitle(
            f"Reward-model training loss, this trainer over LLaMA-Factory\n{MODEL}, dpo_en_demo, float32, "
            f"one pair a step; this trainer: {how}"
        )
        figure.savefig(arguments.output, dpi=150)
        pyplot.close(figure)


def draw_loss(axes: Any, lr: str, ours: Run, theirs: Run) -> None:
    steps = range(1, len(ours) + 1)
    axes.plot(steps, [step[0] for step in theirs], color=THEIRS, linewidth=4, label="LLaMA-Factory, recorded")
    axes.plot(steps, [step[0] for step in ours], color=OURS, linewidth=1, label="this trainer")
    axes.set_title(f"learning rate {lr}, constant")
    axes.set_ylabel("loss of the step (nats)")
    axes.margins(y=0.25)  # room for the legend
    axes.legend(frameon=False, loc="upper left", ncols=2)


def draw_difference(axes: Any, ours: Run, theirs: Run, figures: dict[str, dict[str, float]]) -> None:
    steps = range(1, len(ours) + 1)
    spread, largest = figures["peers"]["loss"], figures["lf"]["loss"]
    highest = max(spread, largest) or 1e-7  # a step or two may agree to the last bit
    exponent = math.floor(math.log10(highest))
    unit = 10.0**exponent
    label = f"LLaMA-Factory, TRL and OpenRLHF differ by {spread:.1e} at most"
    axes.axhspan(-spread / unit, spread / unit, color=SPREAD, linewidth=0, label=label)
    axes.axhline(0, color="black", linewidth=0.6)
    difference = [(our[0] - their[0]) / unit for our, their in zip(ours, theirs, strict=True)]
    style = {"color": OURS, "linewidth": 0.8, "marker": ".", "markersize": 4}
    axes.plot(steps, difference, **style, label=f"this trainer - LLaMA-Factory, {largest:.1e} at most")
    limit = 2.0 * highest / unit  # room for the legend
    axes.set_ylim(-limit, limit)
    axes.set_xlabel("step")
    axes.set_ylabel(f"difference ($10^{{{exponent}}}$ nats)")
    axes.legend(frameon=False, loc="upper left", fontsize=9)


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
