"""What benchmarks/dpo_parity.py gives to a runner of --stage dpo besides, and what it gets back besides."""

import argparse
import json
from typing import Any

from protocol import Pair

# In the result of a runner, each a list over steps -> in the history of a transformers Trainer.
METRICS = {
    "chosen_rewards": "rewards/chosen",
    "rejected_rewards": "rewards/rejected",
    "grad_norms": "grad_norm",
}


def dpo_parser(documentation: str | None) -> argparse.ArgumentParser:
    """A parser of the flags of the loss, named as those of this trainer without `dpo`."""
    parser = argparse.ArgumentParser(description=(documentation or "").splitlines()[0])
    parser.add_argument("--beta", type=float, default=0.1)
    parser.add_argument("--loss-type", default="sigmoid")
    parser.add_argument("--label-smoothing", type=float, default=0.0)
    parser.add_argument("--pref-ftx", type=float, default=0.0)
    parser.add_argument("--simpo-gamma", type=float, default=0.5)
    parser.add_argument("--adapter", help="PEFT's directory: train it alone")
    return parser


def sequence_columns(pair: Pair) -> dict[str, list[int]]:
    """The pair as several collators take it: ids of prompt and answer; labels say which are the answer's."""
    number = pair["num_prompt_tokens"]
    columns = {}
    for side in ("chosen", "rejected"):
        ids = pair[f"{side}_ids"]
        columns |= {
            f"{side}_input_ids": ids,
            f"{side}_attention_mask": [1] * len(ids),
            f"{side}_labels": [-100] * number + ids[number:],
        }
    return columns


def add_logged_metrics(arguments: argparse.Namespace, history: list[dict[str, float]]) -> None:
    """Add what a transformers Trainer logged of every step to the result."""
    rows = [row for row in history if "grad_norm" in row]
    add_metrics(arguments, {name: [row[logged] for row in rows] for name, logged in METRICS.items()})


def add_metrics(arguments: argparse.Namespace, metrics: dict[str, list[float]]) -> None:
    """Add lists over the steps to the result."""
    result: dict[str, Any] = json.loads(arguments.output.read_text())
    arguments.output.write_text(json.dumps(result | metrics))
