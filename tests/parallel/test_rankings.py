"""K responses of a prompt in one pass: the loss and the gradient of all their pairs computed apart."""

import itertools
from typing import Any

import pytest
import torch

from modellink_rm.batching.batch import pack_examples
from modellink_rm.dataset.example import Example
from tests.distributed import Workers
from tests.tiny_data import random_example

NUM_PROMPTS, PROMPT_TOKENS = 2, 20


def losses_and_gradients(argv: list[str], num_responses: int) -> dict[str, Any]:
    """Of prompts with so many responses, and of their pairs as examples of their own."""
    from modellink_rm.base.platform import detect_platform
    from modellink_rm.commands.train import run_config
    from modellink_rm.parallel.groups import process_groups
    from modellink_rm.parallel.pipeline import forward_backward
    from modellink_rm.train.plan import plan_run
    from modellink_rm.train.step import StepLoss
    from modellink_rm.train.trainer import build_train_state, kernels_of

    prompts = [
        random_example(number, PROMPT_TOKENS, *range(3, 3 + num_responses)) for number in range(NUM_PROMPTS)
    ]
    pairs = [
        Example(number, couple, ranks=(1, 2))
        for number, couple in enumerate(
            couple for prompt in prompts for couple in itertools.combinations(prompt.responses, 2)
        )
    ]
    plan = plan_run(run_config(argv), world_size=1)
    config, platform = plan.config, detect_platform()
    loss = StepLoss(objective=plan.objective)
    found: dict[str, Any] = {}
    with process_groups(config.parallel, platform, seed=1) as ranks:
        state = build_train_state(plan, kernels_of(plan, platform), ranks)
        for name, examples in (("prompts", prompts), ("pairs", pairs)):
            batch = pack_examples(examples)
            for chunk in state.model:
                chunk.zero_grad_buffer()
            (kept,) = forward_backward(
                state.model, iter([batch]), loss, num_micro_batches=1, num_examples=len(examples)
            )
            found[name] = {
                "loss": float(kept["losses"].mean()),
                "computed": batch.num_computed_tokens,
                "gradients": {
                    name: parameter.main_grad.clone().numpy()
                    for chunk in state.model
                    for name, parameter in chunk.module.global_parameters()
                },
            }
    return found


@pytest.mark.parametrize("num_responses", [4, pytest.param(9, marks=pytest.mark.full)])
def test_prompt_is_computed_once_and_the_gradient_is_that_of_all_pairs(
    num_responses: int, arguments: list[str], workers: Workers
) -> None:
    (found,) = workers.run(losses_and_gradients, 1, [*arguments, "--loss-type", "kwise"], num_responses)
    prompts, pairs = found["prompts"], found["pairs"]
    answers = sum(range(3, 3 + num_responses))
    assert prompts["computed"] == NUM_PROMPTS * (PROMPT_TOKENS + answers)
    num_pairs = num_responses * (num_responses - 1) // 2
    assert pairs["computed"] == NUM_PROMPTS * (num_pairs * PROMPT_TOKENS + (num_responses - 1) * answers)
    assert prompts["loss"] == pytest.approx(pairs["loss"], rel=1e-6)
    for name, gradient in pairs["gradients"].items():
        ours, theirs = torch.from_numpy(prompts["gradients"][name]), torch.from_numpy(gradient)
        # float32 sums in another order; both scores of a pair share a bias, whose gradient is rounding alone.
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5 * max(1e-2, float(theirs.abs().max())))
