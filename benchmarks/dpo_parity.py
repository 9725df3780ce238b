"""Train by --stage dpo and by TRL's DPOTrainer on the same pairs, and compare every step.

    python benchmarks/dpo_parity.py --reference ../shared/reference --data ../shared/data \\
        --peer-python trl=PATH --loss-types sigmoid ipo

Both start from tiny-llama of REFERENCE/make_models.py and read dpo_en_demo (template llama2) in its order, in
float32 at a constant learning rate; PATH is a python with trl 1.16.0. The table holds the largest differences
of the loss, of the mean implicit rewards and of the gradient norm (relative) over the steps. The exit code is
1 where one is above its bound. Words after `--` go to this trainer, to see the same of a divided model:

    python benchmarks/dpo_parity.py ... --processes 2 -- --tensor-model-parallel-size 2
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modellink_rm.base.errors import UserError, run_command
from modellink_rm.dataset.dataset import open_dataset
from modellink_rm.dataset.reader import ExampleReader

ROOT = Path(__file__).parents[1]
MODEL = "tiny-llama"
BETA, LABEL_SMOOTHING, LEARNING_RATE = 0.1, 0.1, "1e-5"
LOSS_TYPES = ("sigmoid", "hinge", "ipo", "robust")
# Sums in another order, in float32; rewards are beta times differences of sums of hundreds.
BOUNDS = {"loss": 1e-5, "chosen_reward": 1e-5, "rejected_reward": 1e-5, "grad_norm": 1e-4}
Columns = dict[str, list[float]]


def main(argv: Sequence[str]) -> int:
    arguments = parse_arguments(argv)
    with tempfile.TemporaryDirectory(prefix="dpo-parity-") as work:
        prepare(arguments, Path(work))
        found = {kind: compare(arguments, Path(work), kind) for kind in arguments.loss_types}
    print(
        f"\n{arguments.steps} steps of {arguments.batch_size} pairs, lr {LEARNING_RATE}, beta {BETA}: largest"
    )
    print(f"{'largest difference in':24s}" + "".join(f"{name:>18s}" for name in BOUNDS))
    for kind, row in found.items():
        print(f"{kind:24s}" + "".join(f"{row[name]:18.2e}" for name in BOUNDS))
    return int(any(row[name] > bound for row in found.values() for name, bound in BOUNDS.items()))


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
    parser.add_argument("--peer-python", required=True, metavar="trl=PATH", help="python of TRL")
    parser.add_argument("--loss-types", nargs="+", choices=LOSS_TYPES, default=LOSS_TYPES, help="default all")
    parser.add_argument("--steps", type=int, default=40, help="(default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=1, help="pairs of a step (default: %(default)s)")
    # TRL adds log-probabilities of tokens in float32: of sums of thousands the last bit is 1e-4.
    parser.add_argument("--seq-length", type=int, default=64, help="(default: %(default)s)")
    parser.add_argument("--processes", type=int, default=1, help="of this trainer (default: %(default)s)")
    arguments = parser.parse_args(argv)
    arguments.trainer_flags = trainer_flags
    peer, _, python = arguments.peer_python.partition("=")
    if peer != "trl" or not Path(python).is_file():
        raise UserError(f"--peer-python takes trl=PATH of a python, got {arguments.peer_python!r}")
    arguments.python = python
    return arguments


def prepare(arguments: argparse.Namespace, work: Path) -> None:
    """Write the model and the pairs, as ids for TRL too."""
    number = arguments.steps * arguments.batch_size
    records = json.loads((arguments.data / "dpo_en_demo.json").read_text())
    if number > len(records):
        raise UserError(f"--steps {arguments.steps} need {number} pairs, the data have {len(records)}")
    (work / "records.json").write_text(json.dumps(records[:number], ensure_ascii=False))
    run(sys.executable, arguments.reference / "make_models.py", work, "--only", MODEL)
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


def compare(arguments: argparse.Namespace, work: Path, kind: str) -> dict[str, float]:
    """The largest differences between both runs of a loss."""
    ours, theirs = run_ours(arguments, work, kind), run_theirs(arguments, work, kind)
    found = {}
    for name in BOUNDS:
        steps = list(zip(ours[name], theirs[name], strict=True))
        least = 0.0 if name == "grad_norm" else 1.0  # the loss of ipo is 25
        found[name] = max(abs(one - other) / max(least, abs(other)) for one, other in steps)
    return found


def smoothing_of(kind: str) -> str:
    return str(LABEL_SMOOTHING if kind == "robust" else 0.0)


def run_ours(arguments: argparse.Namespace, work: Path, kind: str) -> Columns:
    save = work / f"run_{kind}"
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", arguments.processes]
    run(
        *(sys.executable, *(launcher if arguments.processes > 1 else []), ROOT / "pretrain_rm.py"),
        *("--stage", "dpo", "--dpo-loss-type", kind, "--dpo-label-smoothing", smoothing_of(kind)),
        *("--dpo-beta", BETA, "--load", work / MODEL, "--data-path", work / "pairs", "--split", "100,0,0"),
        *("--no-shuffle", "--seq-length", arguments.seq_length, "--global-batch-size", arguments.batch_size),
        *("--train-iters", arguments.steps, "--lr", LEARNING_RATE, "--lr-decay-style", "constant"),
        *("--weight-decay", "0", "--clip-grad", "1.0", "--adam-beta1", "0.9", "--adam-beta2", "0.999"),
        *("--adam-eps", "1e-8", "--save", save),
        *arguments.trainer_flags,
    )
    rows = [json.loads(line) for line in (save / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if "loss" in row]
    return {name: [row[name] for row in steps] for name in BOUNDS}


def run_theirs(arguments: argparse.Namespace, work: Path, kind: str) -> Columns:
    output = work / f"trl_{kind}.json"
    run(
        *(arguments.python, ROOT / "benchmarks" / "peers" / "trl_dpo_runner.py", "--model", work / MODEL),
        *("--pairs", work / "pairs.json", "--steps", arguments.steps, "--batch-size", arguments.batch_size),
        *("--lr", LEARNING_RATE, "--beta", BETA, "--loss-type", kind, "--output", output),
        *("--label-smoothing", smoothing_of(kind)),
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
