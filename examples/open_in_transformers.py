"""Open an exported reward model with transformers alone, and score the first pairs of a file.

    python examples/open_in_transformers.py DIRECTORY PAIRS.jsonl [SCORES.jsonl]

The pairs are in sharegpt form, as the quickstart's. With SCORES.jsonl, what `score` wrote of the same pairs,
the scores must be equal to 1e-4.
"""

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

NUM_PAIRS = 3
ROLES = {"human": "user", "gpt": "assistant", "system": "system"}


def lines_of(path: str) -> list[dict]:
    try:
        with Path(path).open(encoding="utf-8") as file:
            return [json.loads(line) for _, line in zip(range(NUM_PAIRS), file, strict=False)]
    except ValueError:
        sys.exit(f"error: {path} must hold JSON lines")


def main(directory: str, pairs: str, scores: str | None = None) -> int:
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForSequenceClassification.from_pretrained(directory, dtype=torch.float32).eval()

    def score(turns: list[dict]) -> float:
        messages = [{"role": ROLES[turn["from"]], "content": turn["value"]} for turn in turns]
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")
        with torch.no_grad():
            return model(**ids).logits.item()

    found = []
    for pair in lines_of(pairs):
        if "conversations" not in pair:
            sys.exit(f"error: {pairs} must hold pairs in sharegpt form, with conversations")
        chosen, rejected = (score([*pair["conversations"], pair[side]]) for side in ("chosen", "rejected"))
        found.append((chosen, rejected))
        print(f"chosen {chosen:8.4f}  rejected {rejected:8.4f}")
    if scores is None:
        return 0
    expected = [(row["chosen_score"], row["rejected_score"]) for row in lines_of(scores)]
    difference = (torch.tensor(found) - torch.tensor(expected)).abs().max().item()
    print(f"largest difference from {scores}: {difference:.1e}")
    return int(difference > 1e-4)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
