"""Score the responses of a file of token ids in one way, and say how long it took: a runner of score.py.

- `--way ours`: this package's Scorer;
- `--way padded`: transformers' class, batches sorted by length and padded, as LLaMA-Factory's predict,
  OpenRLHF's serve_rm and the rewardbench package make them;
- `--way loop`: transformers' class, one response after the other.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

WARM_UP_PROMPTS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--way", choices=("ours", "padded", "loop"), required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=0)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    prompts: list[dict[str, Any]] = json.loads(arguments.prompts.read_text())
    score = make_ours(arguments) if arguments.way == "ours" else make_transformers(arguments)
    score(prompts[:WARM_UP_PROMPTS])
    forget_peak()
    before = memory("VmRSS")
    # One thread of a CPU that others use too has its own clock.
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    started = clock()
    scores = score(prompts)
    seconds = clock() - started
    result = {"seconds": seconds, "loaded": before, "peak": memory("VmHWM"), "scores": scores}
    arguments.output.write_text(json.dumps(result))


def make_ours(arguments: argparse.Namespace) -> Any:
    from modellink_rm import Scorer

    budget = {"max_tokens_per_micro_batch": arguments.max_tokens} if arguments.max_tokens else {}
    scorer = Scorer.open(arguments.model, prompt_type="llama2", bf16=arguments.bf16, **budget)

    def score(prompts: list[dict[str, Any]]) -> list[list[float]]:
        examples = [scorer.inputs.example_of_ids(one["prompt"], one["responses"]) for one in prompts]
        return [list(scores) for scores in scorer.score_examples(examples)]

    return score


def make_transformers(arguments: argparse.Namespace) -> Any:
    from transformers import AutoModelForSequenceClassification

    dtype = torch.bfloat16 if arguments.bf16 else torch.float32
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = AutoModelForSequenceClassification.from_pretrained(arguments.model, dtype=dtype)
    model = model.to(device).eval()
    size = arguments.batch_size if arguments.way == "padded" else 1

    @torch.inference_mode()
    def score(prompts: list[dict[str, Any]]) -> list[list[float]]:
        rows = [one["prompt"] + response for one in prompts for response in one["responses"]]
        order = sorted(range(len(rows)), key=lambda index: -len(rows[index]))
        found = [0.0] * len(rows)
        for start in range(0, len(rows), size):
            batch = order[start : start + size]
            longest = len(rows[batch[0]])
            ids = torch.zeros(len(batch), longest, dtype=torch.int64)
            mask = torch.zeros_like(ids)
            for place, index in enumerate(batch):
                ids[place, : len(rows[index])] = torch.tensor(rows[index])
                mask[place, : len(rows[index])] = 1
            given = {"input_ids": ids.to(device), "use_cache": False}
            if size > 1:
                given["attention_mask"] = mask.to(device)
            logits = model(**given).logits[:, 0].float().tolist()
            for index, value in zip(batch, logits, strict=True):
                found[index] = value
        scores = iter(found)
        return [[next(scores) for _ in one["responses"]] for one in prompts]

    return score


def memory(name: str) -> float:
    """A field of /proc/self/status in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{name}:"))
    return int(line.split()[1]) / 1024


def forget_peak() -> None:
    """Let VmHWM begin anew: loading is not measured."""
    Path("/proc/self/clear_refs").write_text("5")


if __name__ == "__main__":
    main()
