"""A padding-free training loop over a Hugging Face model, as an engineer writes it: a runner of train.py.

No language-model head, each response without padding, the score at its last token, torch's AdamW.

- `--layout single` (the default): one response a forward pass, one backward pass a pair;
- `--layout pair`: both responses of a pair in one flat sequence, kept apart by their position ids, from
  which transformers makes a block-diagonal mask.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from peers.protocol import parse_arguments, read_head, write_result
from torch import Tensor
from transformers import AutoModel


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--layout", choices=("single", "pair"), default="single")
    arguments, pairs = parse_arguments(parser)
    device = torch.device(arguments.device)
    model = AutoModel.from_pretrained(arguments.model, dtype=torch.float32).to(device).train()
    head = torch.nn.Linear(model.config.hidden_size, 1, bias=False, device=device)
    with torch.no_grad():
        head.weight.copy_(read_head(Path(arguments.model)))
    parameters = [*model.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=arguments.lr, weight_decay=0.0)
    score = score_single if arguments.layout == "single" else score_pair

    seconds, losses = [], []
    started = time.perf_counter()
    for step in range(arguments.steps):
        batch = pairs[step * arguments.batch_size : (step + 1) * arguments.batch_size]
        total = 0.0
        for pair in batch:
            sides = [torch.tensor(pair[side], device=device) for side in ("chosen_ids", "rejected_ids")]
            with torch.autocast(device.type, torch.bfloat16, enabled=arguments.bf16):
                chosen, rejected = score(model, head, sides)
            loss = -torch.nn.functional.logsigmoid(chosen.float() - rejected.float()).mean() / len(batch)
            loss.backward()
            total += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize()
        now = time.perf_counter()
        seconds.append(now - started)
        losses.append(total)
        started = now
    write_result(arguments.output, seconds, losses)


def score_single(model: Any, head: torch.nn.Linear, sides: list[Tensor]) -> list[Tensor]:
    return [head(model(input_ids=ids[None], use_cache=False).last_hidden_state[0, -1]) for ids in sides]


def score_pair(model: Any, head: torch.nn.Linear, sides: list[Tensor]) -> list[Tensor]:
    lengths = [len(ids) for ids in sides]
    position_ids = torch.cat([torch.arange(length, device=sides[0].device) for length in lengths])
    output = model(input_ids=torch.cat(sides)[None], position_ids=position_ids[None], use_cache=False)
    hidden_states = output.last_hidden_state[0]
    return [head(hidden_states[lengths[0] - 1]), head(hidden_states[-1])]


if __name__ == "__main__":
    main()
