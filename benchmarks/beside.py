"""Train tiny models beside other trainers from the same weights, head and pairs: for parity.py.

Models of families of today beside TRL, and every loss that TRL or OpenRLHF shares beside their own function.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.differences import largest_difference
from modellink_rm.base.errors import UserError
from tests.parity.family_cases import CASES, FamilyCase
from tests.tiny_data import write_random_rows, write_tokenizer
from tests.tiny_models import write_value_head

ROOT = Path(__file__).parents[1]
BATCH_SIZE = 4
LEARNING_RATE = "1e-4"
# From here on the losses differ by more than float32 rounding, grown by as many steps of Adam.
LARGEST_DIFFERENCE = 1e-5
FAMILY_OF_LOSSES = "llama-2"


@dataclass(frozen=True, kw_only=True)
class SharedLoss:
    """A loss that other trainers have too.

    Attributes:
        flags: of our trainer.
        peers: those that have it, with the words of their runner.
    """

    flags: str
    peers: Mapping[str, str]


LOSSES = {
    "sigmoid": SharedLoss(flags="", peers={"trl": "", "openrlhf": ""}),
    "margin": SharedLoss(flags="--margin-weight 1", peers={"trl": "", "openrlhf": ""}),
    "centering": SharedLoss(flags="--centering-weight 0.01", peers={"trl": "--centering-weight 0.01"}),
    "logexp": SharedLoss(flags="--loss-type logexp", peers={"openrlhf": "--loss logexp"}),
}


def compare_losses(names: Sequence[str], *, pythons: Mapping[str, Path], steps: int) -> int:
    """Print the largest difference of each loss from each peer that has it; 1 if one is above the bound.

    Args:
        pythons: of the peers to compare with.
    """
    rows, differences = [], []
    for name in names:
        loss = LOSSES[name]
        with tempfile.TemporaryDirectory(prefix="parity-") as directory:
            work = Path(directory)
            flags = loss.flags.split()
            _prepare(_case(FAMILY_OF_LOSSES), work, steps, flags)
            ours = _ours(work, steps, flags)
            for peer in (peer for peer in loss.peers if peer in pythons):
                theirs = _theirs(work, peer, pythons[peer], steps, loss.peers[peer].split())
                difference = largest_difference(ours, theirs)
                differences.append(difference)
                rows.append(f"{name:12s}{peer:12s}{ours[0]:12.6f}{ours[-1]:12.6f}{difference:14.2e}")
    print(
        f"\nlr {LEARNING_RATE}, {steps} steps of {BATCH_SIZE} pairs: loss, and its difference from the peer's"
    )
    print(f"{'loss':12s}{'peer':12s}{'first':>12s}{'last':>12s}{'largest':>14s}")
    print("\n".join(rows))
    return int(not np.max(differences, initial=0.0) <= LARGEST_DIFFERENCE)


def compare_families(families: Sequence[str], *, peer_python: Path, steps: int, flags: Sequence[str]) -> int:
    """Print the largest difference in loss from TRL for each family; 1 if one is above the bound, else 0.

    Args:
        peer_python: a python with TRL.
        flags: further words for our trainer.
    """
    rows, differences = [], []
    for name in families:
        with tempfile.TemporaryDirectory(prefix="parity-") as work:
            ours, theirs = train_both(_case(name), Path(work), peer_python, steps, flags)
        difference = largest_difference(ours, theirs)
        differences.append(difference)
        rows.append(f"{name:16s}{CASES[name].published:32s}{ours[0]:12.6f}{ours[-1]:12.6f}{difference:14.2e}")
    print(f"\nlr {LEARNING_RATE}, {steps} steps of {BATCH_SIZE} pairs: loss, and its difference from TRL's")
    print(f"{'family':16s}{'config':32s}{'first':>12s}{'last':>12s}{'largest':>14s}")
    print("\n".join(rows))
    return int(not np.max(differences, initial=0.0) <= LARGEST_DIFFERENCE)


def _case(name: str) -> FamilyCase:
    if name not in CASES or not CASES[name].has_class:
        known = [name for name, case in CASES.items() if case.has_class]
        raise UserError(
            f"--families {name}: transformers has no such model here (choices: {', '.join(known)})"
        )
    return CASES[name]


def train_both(
    case: FamilyCase, work: Path, peer_python: Path, steps: int, flags: Sequence[str]
) -> tuple[list[float], list[float]]:
    """The losses of every step, ours and TRL's."""
    _prepare(case, work, steps, flags)
    name = "--centering-weight"
    centering = flags[flags.index(name) : flags.index(name) + 2] if name in flags else ()
    return _ours(work, steps, flags), _theirs(work, "trl", peer_python, steps, centering)


def _prepare(case: FamilyCase, work: Path, steps: int, flags: Sequence[str]) -> None:
    """The model, and the pairs as we and as others read them, with margins where the flags use them."""
    model = work / "model"
    tensors = case.model().state_dict()
    case.write(model, {name: tensor for name, tensor in tensors.items() if not name.startswith("score.")})
    write_value_head(model, case.tiny_config()["hidden_size"], bias=None)  # TRL's head has none
    _balance(model / "config.json", flags)
    write_tokenizer(model)
    settings = json.loads((model / "tokenizer_config.json").read_text())
    (model / "tokenizer_config.json").write_text(json.dumps({**settings, "pad_token": "<unk>"}))
    has_margins = "--margin-weight" in flags
    prefix = write_random_rows(work / "pairs", steps * BATCH_SIZE, has_margins=has_margins)
    (work / "pairs.json").write_text(json.dumps(_pairs(prefix)))


def _balance(config_file: Path, flags: Sequence[str]) -> None:
    """Let config.json ask for the load-balancing loss where the flags do, so that TRL's run has it."""
    name = "--router-aux-loss-coef"
    if name not in flags:
        return
    weight = float(flags[flags.index(name) + 1])
    config = json.loads(config_file.read_text())
    config |= {"output_router_logits": True, "router_aux_loss_coef": weight}
    config_file.write_text(json.dumps(config))


def _pairs(prefix: Path) -> list[dict[str, Any]]:
    """The pairs of a data set, as TRL takes them, which subtracts a margin where there is one."""
    from modellink_rm.dataset.dataset import open_dataset
    from modellink_rm.dataset.reader import ExampleReader

    reader = ExampleReader(seq_length=128, truncation="right", num_closing_tokens=1, num_ids=320)
    dataset = open_dataset(prefix)
    examples = (reader.read(dataset, row) for row in range(len(dataset)))
    return [
        {
            side: response.input_ids.tolist()
            for side, response in zip(("chosen_ids", "rejected_ids"), example.responses, strict=True)
        }
        | ({"margin": example.margins[0]} if example.margins else {})
        for example in examples
    ]


def _ours(work: Path, steps: int, flags: Sequence[str]) -> list[float]:
    words = (
        f"--stage rm --is-pairwise-dataset --load {work}/model --load-checkpoint-loosely "
        f"--data-path {work}/pairs --split 1,0,0 --no-shuffle --seq-length 128 "
        f"--micro-batch-size {BATCH_SIZE} --global-batch-size {BATCH_SIZE} --train-iters {steps} "
        f"--lr {LEARNING_RATE} --lr-decay-style constant --weight-decay 0 --clip-grad 1.0 --save {work}/run"
    )
    run(sys.executable, ROOT / "pretrain_rm.py", *words.split(), *flags)
    rows = [json.loads(line) for line in (work / "run" / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


def _theirs(work: Path, peer: str, python: Path, steps: int, more: Sequence[str]) -> list[float]:
    output = work / f"{peer}.json"
    words = (
        f"--model {work}/model --pairs {work}/pairs.json --steps {steps} --batch-size {BATCH_SIZE} "
        f"--lr {LEARNING_RATE} --output {output}"
    )
    run(python, ROOT / "benchmarks" / "peers" / f"{peer}_runner.py", *words.split(), *more)
    losses: list[float] = json.loads(output.read_text())["losses"]
    return losses


def run(*words: str | Path) -> None:
    """Run a command that is printed first.

    Raises:
        UserError: it fails.
    """
    print("$ " + " ".join(map(str, words)), flush=True)
    done = subprocess.run([str(word) for word in words])
    if done.returncode:
        raise UserError(f"the command above failed with exit code {done.returncode}")
