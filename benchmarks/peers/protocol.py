"""What benchmarks/train.py gives to a runner, and what it gets back.

A runner is run by its own environment's python. It gets the model's directory, pairs of token ids, and the
settings; it writes the seconds and the loss of every step. Peak memory is measured from outside.
"""

import argparse
import json
from pathlib import Path
from typing import Any

# "chosen_ids" and "rejected_ids", each prompt + response; "margin" where the pairs have margins
Pair = dict[str, Any]


def parse_arguments(parser: argparse.ArgumentParser) -> tuple[argparse.Namespace, list[Pair]]:
    """The arguments, and the pairs of all steps, in order."""
    parser.add_argument("--model", required=True, help="Hugging Face directory with value_head.safetensors")
    parser.add_argument("--pairs", type=Path, required=True, help="json list of pairs of token ids")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--batch-size", type=int, required=True, help="pairs of a step")
    parser.add_argument(
        "--micro-batch-size", type=int, help="pairs of a forward pass, whose gradients add up; default all"
    )
    parser.add_argument("--lr", type=float, required=True)
    parser.add_argument("--output", type=Path, required=True, help="file for the result")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--bf16", action="store_true", help="autocast; the weights stay float32")
    parser.add_argument("--recompute", action="store_true", help="checkpoint activations")
    arguments = parser.parse_args()
    arguments.micro_batch_size = arguments.micro_batch_size or arguments.batch_size
    pairs = json.loads(arguments.pairs.read_text())
    return arguments, pairs[: arguments.steps * arguments.batch_size]


def read_head(model: Path) -> Any:
    """Weight [1, h] of the value head; its bias, 0, is left out: no loss of a pair sees it."""
    from safetensors.torch import load_file

    return load_file(model / "value_head.safetensors")["v_head.summary.weight"]


def write_result(path: Path, seconds: list[float], losses: list[float]) -> None:
    import torch
    import transformers

    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    path.write_text(json.dumps({"seconds": seconds, "losses": losses, "versions": versions}))
