"""Train a tiny process reward model beside TRL's PRMTrainer, from the same weights, head and responses.

    python benchmarks/process_rewards.py --peer-python PATH --steps 20

PATH is a python with trl 1.13.0. The model is a Llama of random weights (tests/parity/family_cases.py), with
the head of AutoModelForTokenClassification; responses are random token ids in 1 to 6 steps, labelled right or
wrong or not at all. Words after `--` go to our trainer, to see the same with a divided model:

    python benchmarks/process_rewards.py --peer-python PATH --processes 2 -- --tensor-model-parallel-size 2
"""

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # for the tiny models of the tests

import torch  # noqa: E402

from benchmarks.beside import BATCH_SIZE, LARGEST_DIFFERENCE, LEARNING_RATE, run  # noqa: E402
from benchmarks.differences import largest_difference  # noqa: E402
from modellink_rm.base.errors import run_command  # noqa: E402
from modellink_rm.dataset.dataset import open_dataset  # noqa: E402
from modellink_rm.dataset.reader import ExampleReader  # noqa: E402
from modellink_rm.model.heads.steps import NUM_LABELS  # noqa: E402
from tests.parity.family_cases import CASES  # noqa: E402
from tests.tiny_data import write_random_steps, write_tokenizer  # noqa: E402

_FAMILY = "llama-3.1"
_IGNORED = -100


def main(argv: Sequence[str]) -> int:
    """Print both losses of some steps and the largest difference; 1 if it is above the bound, else 0."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--peer-python", type=Path, required=True, help="python of TRL")
    parser.add_argument("--steps", type=int, default=20, help="(default: %(default)s)")
    parser.add_argument("--processes", type=int, default=1, help="of our trainer (default: %(default)s)")
    parser.add_argument("flags", nargs="*", help="words for our trainer, after --")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="process-rewards-") as work:
        ours, theirs = train_both(Path(work), arguments)
    difference = largest_difference(ours, theirs)
    print(f"\nlr {LEARNING_RATE}, {arguments.steps} steps of {BATCH_SIZE} responses: loss, ours and TRL's")
    for step in sorted({0, arguments.steps // 2, arguments.steps - 1}):
        print(f"step {step + 1:4d}{ours[step]:12.6f}{theirs[step]:12.6f}")
    print(f"largest difference {difference:.2e}")
    return int(not difference <= LARGEST_DIFFERENCE)


def train_both(work: Path, arguments: argparse.Namespace) -> tuple[list[float], list[float]]:
    """The losses of every step, ours and TRL's."""
    model, case = work / "model", CASES[_FAMILY]
    hidden_size = case.tiny_config()["hidden_size"]
    generator = torch.Generator().manual_seed(11)
    head = {
        "score.weight": torch.randn(NUM_LABELS, hidden_size, generator=generator) * 0.2,
        "score.bias": torch.randn(NUM_LABELS, generator=generator) * 0.2,
    }
    body = {name: one for name, one in case.model().state_dict().items() if not name.startswith("score.")}
    case.write(model, {**body, **head})
    write_tokenizer(model)
    settings = json.loads((model / "tokenizer_config.json").read_text())
    (model / "tokenizer_config.json").write_text(json.dumps({**settings, "pad_token": "<unk>"}))
    prefix = write_random_steps(work / "steps", arguments.steps * BATCH_SIZE, is_soft=False)
    (work / "responses.json").write_text(json.dumps(_responses(prefix)))
    return _ours(work, arguments), _theirs(work, arguments)


def _responses(prefix: Path) -> list[dict[str, Any]]:
    """The responses of a data set, as TRL takes them: a label at the last token of each labelled step."""
    reader = ExampleReader(seq_length=128, truncation="right", num_closing_tokens=1, num_ids=320)
    dataset = open_dataset(prefix)
    found = []
    for row in range(len(dataset)):
        (response,) = reader.read(dataset, row).responses
        labels = [_IGNORED] * len(response.input_ids)
        for end, label in zip(response.step_ends or (), response.step_labels, strict=True):
            if not math.isnan(label):
                labels[end] = int(label)
        found.append({"input_ids": response.input_ids.tolist(), "labels": labels})
    return found


def _ours(work: Path, arguments: argparse.Namespace) -> list[float]:
    words = (
        f"--stage prm --load {work}/model --data-path {work}/steps --split 1,0,0 --no-shuffle "
        f"--seq-length 128 --micro-batch-size {BATCH_SIZE} --global-batch-size {BATCH_SIZE} "
        f"--train-iters {arguments.steps} --lr {LEARNING_RATE} --lr-decay-style constant --weight-decay 0 "
        f"--clip-grad 1.0 --make-vocab-size-divisible-by 1 --save {work}/run"
    )
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(arguments.processes)]
    run(sys.executable, *launcher, ROOT / "pretrain_rm.py", *words.split(), *arguments.flags)
    rows = [json.loads(line) for line in (work / "run" / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


def _theirs(work: Path, arguments: argparse.Namespace) -> list[float]:
    words = (
        f"--model {work}/model --responses {work}/responses.json --steps {arguments.steps} "
        f"--batch-size {BATCH_SIZE} --lr {LEARNING_RATE} --output {work}/trl.json"
    )
    run(arguments.peer_python, ROOT / "benchmarks" / "peers" / "trl_prm_runner.py", *words.split())
    losses: list[float] = json.loads((work / "trl.json").read_text())["losses"]
    return losses


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
