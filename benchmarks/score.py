"""Rows a second and memory of scoring, beside padded batches sorted by length and a plain loop.

    python -m benchmarks.score

Each way gets the same weights and token ids, in a process of its own, in turns; of its fastest turn come the
rows a second, on a CPU of processor time of its one thread. Memory is the peak while it scores: of the
process, and beyond what it had when the model was loaded. Two kinds of rows: pairs of mixed lengths, and 16
answers to each of some long prompts.
"""

import argparse
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.processes import run_measured
from modellink_rm.base.errors import UserError
from tests.tiny_data import write_tokenizer

LARGEST_DIFFERENCE = 1e-4
VOCAB_SIZE = 32000
SHAPES = {
    "small": {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4, "num_attention_heads": 8},
    "100m": {
        "hidden_size": 768,
        "intermediate_size": 2048,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
    },
    "1b": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
    },
}
RUNNER = Path(__file__).parent / "peers" / "score_runner.py"


@dataclass(frozen=True, kw_only=True)
class Case:
    """Prompts and answers of random ids.

    Attributes:
        prompt: fewest and most tokens of a prompt.
        answer: of an answer.
    """

    num_answers: int
    prompt: tuple[int, int]
    answer: tuple[int, int]

    def prompts(self, number: int) -> list[dict[str, Any]]:
        """The ids; lengths are spread evenly in their logarithm, as those of chats are."""
        generator = np.random.default_rng(5)

        def ids(bounds: tuple[int, int]) -> list[int]:
            length = int(np.exp(generator.uniform(*np.log(bounds))))
            return list(map(int, generator.integers(3, VOCAB_SIZE, size=length)))

        return [
            {"prompt": ids(self.prompt), "responses": [ids(self.answer) for _ in range(self.num_answers)]}
            for _ in range(number)
        ]


CASES = {
    "pairs": Case(num_answers=2, prompt=(64, 512), answer=(32, 384)),
    "best-of-16": Case(num_answers=16, prompt=(1024, 2048), answer=(32, 256)),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", choices=SHAPES, default="small")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--num-pairs", type=int, default=128)
    parser.add_argument("--num-prompts", type=int, default=6, help="of best-of-16")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[8, 32], help="of padded batches")
    parser.add_argument("--max-tokens", type=int, nargs="+", default=[0], help="ours; 0 for the default")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="score-") as work:
        write_model(Path(work, "model"), arguments.model)
        for case in arguments.cases:
            number = arguments.num_pairs if case == "pairs" else arguments.num_prompts
            prompts = CASES[case].prompts(number)
            Path(work, "prompts.json").write_text(json.dumps(prompts))
            results = measured(Path(work), arguments)
            print("\n".join(table(case, prompts, results, is_exact=not arguments.bf16)), flush=True)
    return 0


def write_model(directory: Path, name: str) -> None:
    """Random weights of a Llama with a score, as a transformers directory, and a tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForSequenceClassification

    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        num_key_value_heads=4,
        max_position_embeddings=8192,
        num_labels=1,
        pad_token_id=0,
        **SHAPES[name],
    )
    torch.manual_seed(1234)
    LlamaForSequenceClassification(config).save_pretrained(directory)
    write_tokenizer(directory)


def measured(work: Path, arguments: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """What each way said in each turn."""
    ways = {
        f"ours, {budget or 'default'} tokens": f"ours --max-tokens {budget}"
        for budget in arguments.max_tokens
    }
    ways |= {f"padded, batches of {size}": f"padded --batch-size {size}" for size in arguments.batch_sizes}
    ways["plain loop"] = "loop"
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in ways}
    for _ in range(arguments.turns):
        for name, words in ways.items():
            output = work / "result.json"
            flags = ["--model", str(work / "model"), "--prompts", str(work / "prompts.json")]
            flags += ["--output", str(output), *(["--bf16"] if arguments.bf16 else [])]
            run_measured(
                [sys.executable, str(RUNNER), "--way", *words.split(), *flags], device=arguments.device
            )
            results[name].append(json.loads(output.read_text()))
    return results


def table(
    case: str, prompts: list[dict[str, Any]], results: dict[str, list[dict[str, Any]]], *, is_exact: bool
) -> list[str]:
    """The lines of a case.

    Raises:
        UserError: the ways differ in a score.
    """
    num_rows = len(prompts) if case == "pairs" else sum(len(one["responses"]) for one in prompts)
    unit = "pairs" if case == "pairs" else "responses"
    expected = np.concatenate([np.array(one) for one in results["plain loop"][0]["scores"]])
    lines = [f"{case}: {num_rows} {unit}"]
    lines.append(f"{'':28s}{unit + '/s':>14s}{'peak MB':>10s}{'beyond model MB':>17s}{'score diff':>12s}")
    for name, turns in results.items():
        fastest = min(turns, key=lambda turn: turn["seconds"])
        found = np.concatenate([np.array(one) for one in fastest["scores"]])
        difference = float(np.abs(found - expected).max())
        if is_exact and difference > LARGEST_DIFFERENCE:
            raise UserError(f"{name}: a score differs by {difference} from that of the plain loop")
        lines.append(
            f"{name:28s}{num_rows / fastest['seconds']:14.2f}{fastest['peak']:10.0f}"
            f"{fastest['peak'] - fastest['loaded']:17.0f}{difference:12.1e}"
        )
    return lines


if __name__ == "__main__":
    sys.exit(main())
