"""Train by --stage dpo and by other trainers on the same pairs, and compare every step.

    python benchmarks/dpo_parity.py --reference ../shared/reference --data ../shared/data \\
        --peer-python trl=PATH llama_factory=PATH

All start from tiny-llama of REFERENCE/make_models.py and read dpo_en_demo (template llama2) in its order, in
float32 at a constant learning rate; the PATHs are pythons with trl 1.16.0 and peft, and with llamafactory
0.9.5 (benchmarks/train.py --peers-dir makes both). Each case of CASES is trained by this trainer, by the
peers that have its loss, and by a plain loop in float64, which the python of TRL runs too.

The table holds the largest differences over the steps: of the loss (relative where it is above 1), of the
mean implicit rewards, and of the gradient norm (relative). This trainer must be within BOUNDS of float64,
and a peer's difference within that and what float32 leaves of a sum of log-probabilities, or the exit code
is 1. Words after `--` go to this trainer, to see the same of a divided model:

    python benchmarks/dpo_parity.py ... --processes 2 -- --tensor-model-parallel-size 2
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from random_model import write_random_adapter

from modellink_rm.base.errors import UserError, run_command
from modellink_rm.config.dpo import WITHOUT_REFERENCE
from modellink_rm.dataset.dataset import open_dataset
from modellink_rm.dataset.reader import ExampleReader

ROOT = Path(__file__).parents[1]
RUNNERS = {
    "float64": "float64_dpo_runner.py",
    "trl": "trl_dpo_runner.py",
    "llama_factory": "llama_factory_dpo_runner.py",
}
MODEL, BETA, RANK = "tiny-llama", 0.1, 8
# Sums in another order, in float32, grown by 40 steps of Adam.
BOUNDS = {"loss": 1e-5, "chosen_reward": 1e-5, "rejected_reward": 1e-5, "grad_norm": 1e-4}
LOG_PROBS = ("chosen_log_prob", "rejected_log_prob")
FLOAT32 = 2.0**-24  # half the distance of two numbers, in parts of them
Columns = dict[str, list[float]]


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is trained, by whom.

    Attributes:
        flags: of the loss, by their names in dpo_protocol.py.
        peers: those that have it.
        trains_adapters: adapters alone, from one PEFT directory.
    """

    flags: Mapping[str, str] = field(default_factory=dict)
    peers: tuple[str, ...]
    trains_adapters: bool = False
    lr: str = "1e-5"


@dataclass(frozen=True, kw_only=True)
class Row:
    """The largest differences of two runs over the steps, and their bounds, by column."""

    label: str
    differences: Mapping[str, float]
    bounds: Mapping[str, float]

    @property
    def over(self) -> list[str]:
        """The columns above their bounds."""
        return [name for name in BOUNDS if self.differences[name] > self.bounds[name]]


# LLaMA-Factory's hinge and ipo are sigmoid (llama_factory_dpo_runner.py); TRL's ORPO adds the likelihood of
# the prompt too; its DPOTrainer smooths the labels of robust alone.
CASES = {
    "sigmoid": Case(flags={"loss-type": "sigmoid"}, peers=("trl", "llama_factory")),
    "smoothed": Case(flags={"loss-type": "sigmoid", "label-smoothing": "0.1"}, peers=("llama_factory",)),
    "pref-ftx": Case(flags={"loss-type": "sigmoid", "pref-ftx": "0.5"}, peers=("trl", "llama_factory")),
    "hinge": Case(flags={"loss-type": "hinge"}, peers=("trl",)),
    "ipo": Case(flags={"loss-type": "ipo"}, peers=("trl",)),
    "robust": Case(flags={"loss-type": "robust", "label-smoothing": "0.1"}, peers=("trl",)),
    "simpo": Case(flags={"loss-type": "simpo"}, peers=("trl", "llama_factory")),
    "orpo": Case(flags={"loss-type": "orpo"}, peers=("llama_factory",)),
    "lora": Case(flags={"loss-type": "sigmoid"}, peers=("trl",), trains_adapters=True, lr="1e-4"),
}
OUR_NAMES = {"loss-type": "--dpo-loss-type", "label-smoothing": "--dpo-label-smoothing"}


def main(argv: Sequence[str]) -> int:
    arguments = parse_arguments(argv)
    found: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="dpo-parity-") as work:
        prepare(arguments, Path(work))
        for name in arguments.cases:
            rows = compare(arguments, Path(work), name)
            print_rows(rows)  # what is known if a later case fails
            found += rows
    print(f"\n{arguments.steps} steps of {arguments.batch_size} pairs, beta {BETA}: largest differences")
    print_rows(found)
    return int(any(row.over for row in found))


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
    parser.add_argument(
        "--peer-python",
        nargs="+",
        required=True,
        metavar="NAME=PATH",
        help="of trl and llama_factory",
    )
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), help="(default: all)")
    parser.add_argument("--steps", type=int, default=40, help="(default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=1, help="pairs of a step (default: %(default)s)")
    parser.add_argument("--seq-length", type=int, default=64, help="(default: %(default)s)")
    parser.add_argument("--processes", type=int, default=1, help="of this trainer (default: %(default)s)")
    arguments = parser.parse_args(argv)
    arguments.trainer_flags = trainer_flags
    arguments.pythons = {}
    for word in arguments.peer_python:
        peer, _, python = word.partition("=")
        if peer not in RUNNERS or not Path(python).is_file():
            raise UserError(f"--peer-python takes trl=PATH and llama_factory=PATH of pythons, got {word!r}")
        arguments.pythons[peer] = python
    if "trl" not in arguments.pythons:
        raise UserError("--peer-python needs trl=PATH, which runs the loop in float64 too")
    arguments.pythons["float64"] = arguments.pythons["trl"]
    return arguments


def prepare(arguments: argparse.Namespace, work: Path) -> None:
    """Write the model and the pairs, as ids for TRL too."""
    number = arguments.steps * arguments.batch_size
    records = json.loads((arguments.data / "dpo_en_demo.json").read_text())
    if number > len(records):
        raise UserError(f"--steps {arguments.steps} need {number} pairs, the data have {len(records)}")
    (work / "records.json").write_text(json.dumps(records[:number], ensure_ascii=False))
    run(sys.executable, arguments.reference / "make_models.py", work, "--only", MODEL)
    write_random_adapter(work / MODEL, work / "adapter", rank=RANK, trains_head=False)
    run(
        *(sys.executable, ROOT / "preprocess_data.py", "--input", work / "records.json"),
        *("--output-prefix", work / "pairs", "--handler-name", "SharegptStylePairwiseHandler"),
        *("--prompt-type", "llama2", "--tokenizer-name-or-path", work / MODEL),
    )
    dataset = open_dataset(work / "pairs")
    if len(dataset) != number:
        raise UserError(f"{number - len(dataset)} of the first {number} records were dropped")
    reader = ExampleReader(
        seq_length=arguments.seq_length, truncation="right", num_closing_tokens=0, num_ids=1 << 30
    )
    pairs = []
    for row in range(number):
        chosen, rejected = reader.read(dataset, row).responses
        pairs.append(
            {
                "chosen_ids": chosen.input_ids.tolist(),
                "rejected_ids": rejected.input_ids.tolist(),
                "num_prompt_tokens": chosen.num_prompt_tokens,
            }
        )
    (work / "pairs.json").write_text(json.dumps(pairs))


def print_rows(rows: Sequence[Row]) -> None:
    print(f"{'':44s}" + "".join(f"{name:>18s}" for name in BOUNDS))
    for row in rows:
        mark = f"  over its bound: {', '.join(row.over)}" if row.over else ""
        print(f"{row.label:44s}" + "".join(f"{row.differences[name]:18.2e}" for name in BOUNDS) + mark)
    sys.stdout.flush()


def compare(arguments: argparse.Namespace, work: Path, name: str) -> list[Row]:
    """The rows of a case: this trainer and each peer beside float64, and both beside each other."""
    case = CASES[name]
    exact, ours = run_runner(arguments, work, name, "float64"), run_ours(arguments, work, name)
    rows = [Row(label=f"{name}: ours, float64", differences=differences(ours, exact), bounds=BOUNDS)]
    # What the policy's sum and the reference's are off by where they are added in float32; means are not.
    rounding = 2 * BETA * FLOAT32 * max(map(abs, ours["chosen_log_prob"] + ours["rejected_log_prob"]))
    rounding = 0.0 if case.flags["loss-type"] in WITHOUT_REFERENCE else rounding
    bounds = {column: bound + rounding for column, bound in BOUNDS.items()}
    for peer in (peer for peer in case.peers if peer in arguments.pythons):
        theirs = run_runner(arguments, work, name, peer)
        for label, one, other in ((f"{peer}, float64", theirs, exact), (f"ours, {peer}", ours, theirs)):
            rows.append(Row(label=f"{name}: {label}", differences=differences(one, other), bounds=bounds))
    return rows


def differences(ours: Columns, theirs: Columns) -> dict[str, float]:
    """The largest differences over the steps."""
    found = {}
    for name in BOUNDS:
        steps = list(zip(ours[name], theirs[name], strict=True))
        least = 0.0 if name == "grad_norm" else 1.0  # the loss of ipo is 25
        found[name] = max(abs(one - other) / max(least, abs(other)) for one, other in steps)
    return found


def run_ours(arguments: argparse.Namespace, work: Path, name: str) -> Columns:
    case, save = CASES[name], work / f"run_{name}"
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", arguments.processes]
    loss = [word for flag, value in case.flags.items() for word in (OUR_NAMES.get(flag, f"--{flag}"), value)]
    run(
        *(sys.executable, *(launcher if arguments.processes > 1 else []), ROOT / "pretrain_rm.py"),
        *("--stage", "dpo", *loss, "--dpo-beta", BETA),
        *("--load", work / MODEL, "--data-path", work / "pairs", "--split", "100,0,0"),
        *(("--load-adapter", work / "adapter") if case.trains_adapters else ()),
        *("--no-shuffle", "--seq-length", arguments.seq_length, "--global-batch-size", arguments.batch_size),
        *("--train-iters", arguments.steps, "--lr", case.lr, "--lr-decay-style", "constant"),
        *("--weight-decay", "0", "--clip-grad", "1.0", "--adam-beta1", "0.9", "--adam-beta2", "0.999"),
        *("--adam-eps", "1e-8", "--save", save),
        *arguments.trainer_flags,
    )
    rows = [json.loads(line) for line in (save / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if "loss" in row]
    return {column: [row[column] for row in steps] for column in (*BOUNDS, *LOG_PROBS)}


def run_runner(arguments: argparse.Namespace, work: Path, name: str, peer: str) -> Columns:
    case, output = CASES[name], work / f"{name}_{peer}.json"
    loss = [word for flag, value in case.flags.items() for word in (f"--{flag}", value)]
    run(
        *(arguments.pythons[peer], ROOT / "benchmarks" / "peers" / RUNNERS[peer], "--model", work / MODEL),
        *("--pairs", work / "pairs.json", "--steps", arguments.steps, "--batch-size", arguments.batch_size),
        *("--lr", case.lr, "--beta", BETA, *loss, "--output", output),
        *(("--adapter", work / "adapter") if case.trains_adapters else ()),
    )
    result: dict[str, Any] = json.loads(output.read_text())
    return {
        "loss": result["losses"],
        "chosen_reward": result["chosen_rewards"],
        "rejected_reward": result["rejected_rewards"],
        "grad_norm": result["grad_norms"],
    }


def run(*words: object) -> None:
    print("$ " + " ".join(map(str, words)), flush=True)
    done = subprocess.run([str(word) for word in words])
    if done.returncode:
        raise UserError(f"the command above failed with exit code {done.returncode}")


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
