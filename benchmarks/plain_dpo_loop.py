"""A padding-free DPO loop over a Hugging Face model, as an engineer writes it: a runner of train.py.

Each response without padding, logits at answer tokens alone, one backward pass a pair, torch's AdamW; the
reference's log-probabilities are computed before the first step.
"""

import argparse
import time
from typing import Any

import torch
from peers.protocol import parse_arguments, write_result
from torch import Tensor
from transformers import AutoModelForCausalLM

SIDES = ("chosen_ids", "rejected_ids")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--beta", type=float, default=0.1)
    arguments, pairs = parse_arguments(parser)
    device = torch.device(arguments.device)
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=arguments.lr, weight_decay=0.0)

    def log_probs(pair: dict[str, Any]) -> list[Tensor]:
        with torch.autocast(device.type, torch.bfloat16, enabled=arguments.bf16):
            return [answer_log_prob(model, pair[side], pair["num_prompt_tokens"], device) for side in SIDES]

    with torch.no_grad():
        references = [log_probs(pair) for pair in pairs]
    seconds, losses = [], []
    started = time.perf_counter()
    for step in range(arguments.steps):
        numbers = range(step * arguments.batch_size, (step + 1) * arguments.batch_size)
        total = 0.0
        for number in numbers:
            chosen, rejected = (
                own - other for own, other in zip(log_probs(pairs[number]), references[number], strict=True)
            )
            loss = -torch.nn.functional.logsigmoid(arguments.beta * (chosen - rejected)) / len(numbers)
            loss.backward()
            total += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize()
        now = time.perf_counter()
        seconds.append(now - started)
        losses.append(total)
        started = now
    write_result(arguments.output, seconds, losses)


def answer_log_prob(model: Any, ids: list[int], num_prompt_tokens: int, device: torch.device) -> Tensor:
    """The log-probability of the tokens after the prompt."""
    tokens = torch.tensor(ids, device=device)
    answer = tokens[num_prompt_tokens:]
    output = model(input_ids=tokens[None], use_cache=False, logits_to_keep=len(answer) + 1)
    log_probs = output.logits[0, :-1].float().log_softmax(dim=-1)
    return log_probs.gather(1, answer[:, None]).sum()


if __name__ == "__main__":
    main()
