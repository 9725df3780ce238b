"""DPO in float64, a response at a time, over transformers' Llama: what trainers in float32 are compared with.

A runner of dpo_parity.py, by a python that has peft where adapters are trained. The losses are written down
anew here. The result holds the mean implicit rewards and the gradient norm of every step too.
"""

import argparse
import time
from typing import Any

import torch
from dpo_protocol import add_metrics, dpo_parser
from protocol import Pair, parse_arguments, write_result
from torch import Tensor
from torch.nn.functional import logsigmoid, relu
from transformers import AutoModelForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm

SIDES = ("chosen_ids", "rejected_ids")
WITHOUT_REFERENCE = ("simpo", "orpo")


def rms_norm(self: LlamaRMSNorm, hidden_states: Tensor) -> Tensor:
    """The norm in the dtype of its input; transformers' own is in float32."""
    mean_of_squares = hidden_states.square().mean(dim=-1, keepdim=True)
    return self.weight * hidden_states * torch.rsqrt(mean_of_squares + self.variance_epsilon)


def main() -> None:
    arguments, pairs = parse_arguments(dpo_parser(__doc__))
    LlamaRMSNorm.forward = rms_norm  # type: ignore[method-assign]
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float64)
    if arguments.adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, arguments.adapter, is_trainable=True).double()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=arguments.lr, weight_decay=0.0)
    with torch.no_grad():  # adapters begin at 0: so far the model is its own reference
        references = [[answer_log_prob(model, pair, side) for side in SIDES] for pair in pairs]
    seconds: list[float] = []
    columns: dict[str, list[float]] = {
        name: [] for name in ("losses", "chosen_rewards", "rejected_rewards", "grad_norms")
    }
    for step in range(arguments.steps):
        started = time.perf_counter()
        numbers = range(step * arguments.batch_size, (step + 1) * arguments.batch_size)
        totals = torch.zeros(3, dtype=torch.float64)
        for number in numbers:
            values = loss_and_rewards(arguments, model, pairs[number], references[number]) / len(numbers)
            values[0].backward()
            totals += values.detach()
        norm = torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        for name, value in zip(columns, (*totals.tolist(), float(norm)), strict=True):
            columns[name].append(value)
        seconds.append(time.perf_counter() - started)
    write_result(arguments.output, seconds, columns.pop("losses"))
    add_metrics(arguments, columns)


def loss_and_rewards(
    arguments: argparse.Namespace, model: Any, pair: Pair, references: list[Tensor]
) -> Tensor:
    """The loss of a pair and the implicit rewards of its answers [3]."""
    chosen, rejected = (answer_log_prob(model, pair, side) for side in SIDES)
    num_chosen, num_rejected = (len(pair[side]) - pair["num_prompt_tokens"] for side in SIDES)
    kind, beta, smoothing = arguments.loss_type, arguments.beta, arguments.label_smoothing
    chosen_mean, rejected_mean = chosen / num_chosen, rejected / num_rejected
    if kind in WITHOUT_REFERENCE:
        rewards = [beta * chosen_mean, beta * rejected_mean]
    else:
        rewards = [beta * (own - other) for own, other in zip((chosen, rejected), references, strict=True)]
    logit = rewards[0] - rewards[1]
    if kind == "sigmoid":
        loss = -(1 - smoothing) * logsigmoid(logit) - smoothing * logsigmoid(-logit)
    elif kind == "robust":
        loss = smoothing * logsigmoid(-logit) - (1 - smoothing) * logsigmoid(logit)
        loss = loss / (1 - 2 * smoothing)
    elif kind == "hinge":
        loss = relu(1 - logit)
    elif kind == "ipo":
        means = rewards[0] / beta / num_chosen - rewards[1] / beta / num_rejected
        loss = (means - 1 / (2 * beta)).square()
    elif kind == "simpo":
        loss = -logsigmoid(logit - arguments.simpo_gamma)
    else:
        odds = [mean - torch.log1p(-mean.exp()) for mean in (chosen_mean, rejected_mean)]
        loss = -chosen_mean - beta * logsigmoid(odds[0] - odds[1])
    return torch.stack([loss - arguments.pref_ftx * chosen_mean, *rewards])


def answer_log_prob(model: Any, pair: Pair, side: str) -> Tensor:
    """The log-probability of the tokens after the prompt."""
    tokens = torch.tensor(pair[side])
    answer = tokens[pair["num_prompt_tokens"] :]
    logits = model(input_ids=tokens[None], use_cache=False, logits_to_keep=len(answer) + 1).logits
    found: Tensor = logits[0, :-1].log_softmax(dim=-1).gather(1, answer[:, None]).sum()
    return found


if __name__ == "__main__":
    main()
