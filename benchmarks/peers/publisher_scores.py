"""Scores by the code beside a model's weights: the runner of export_in_publisher_code.py."""

import argparse
import json
from pathlib import Path

import torch
import transformers


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", required=True, help="directory of weights, config.json and code")
    parser.add_argument("--ids", type=Path, required=True, help="json list of lists of token ids")
    parser.add_argument("--output", type=Path, required=True, help="file for the scores")
    arguments = parser.parse_args()
    model, report = transformers.AutoModel.from_pretrained(
        arguments.model, trust_remote_code=True, torch_dtype=torch.float32, output_loading_info=True
    )
    problems = [name for kind in ("missing_keys", "unexpected_keys") for name in report[kind]]
    assert not problems, f"{type(model).__name__} does not find its tensors: {problems}"
    model.eval()
    scores = []
    for ids in json.loads(arguments.ids.read_text()):
        tokens = torch.tensor([ids])
        with torch.no_grad():
            scores.append(model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits.item())
    arguments.output.write_text(json.dumps(scores))


if __name__ == "__main__":
    main()
