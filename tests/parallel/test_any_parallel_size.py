"""Packed, apart or alone, divided or not: one step over any responses gives the same numbers."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from modellink_rm.batching.targets import Targets
from modellink_rm.dataset.dataset import Dataset
from modellink_rm.dataset.example import Example
from modellink_rm.objective.objective import Labels, ObjectiveResult
from tests.distributed import Workers
from tests.marks import full
from tests.tiny_data import random_example

# Of each example: tokens of the prompt, and of its answers. One answer, five, an empty prompt,
# answers of one token, and an example longer than the budget.
LENGTHS = ((5, (7,)), (6, (3, 1, 4, 1, 5)), (0, (4, 2)), (9, (1, 1)), (30, (12, 9)), (1, (2, 8)), (2, (3, 3)))
BUDGETS = {"alone": 1, "packed": 40, "in_one": 1000}
PROCESSES = {
    "one": (1, ""),
    "tp2": (2, "--tensor-model-parallel-size 2"),
    "tp2_sp": (2, "--tensor-model-parallel-size 2 --sequence-parallel"),
    "pp2": (2, "--pipeline-model-parallel-size 2"),
    "pp2_vpp2": (2, "--pipeline-model-parallel-size 2 --num-layers-per-virtual-pipeline-stage 1"),
    "cp2": (2, "--context-parallel-size 2"),
    "dp2": (2, ""),
    "tp2_sp_cp2": (4, "--tensor-model-parallel-size 2 --sequence-parallel --context-parallel-size 2"),
    "pp2_dp2": (4, "--pipeline-model-parallel-size 2"),
    "cp2_dp2": (4, "--context-parallel-size 2"),
}


def examples() -> list[Example]:
    return [random_example(index, prompt, *answers) for index, (prompt, answers) in enumerate(LENGTHS)]


class AnyNumberObjective:
    """-log sigmoid of the first score minus the mean of the others, if any."""

    sum_names = ("best",)
    details = ()
    labels = Labels()

    def __call__(self, scores: torch.Tensor, targets: Targets) -> ObjectiveResult:
        losses = [scores[:0]]  # of a padding-only micro-batch
        best = [scores[:0]]
        for part in scores.split(targets.num_responses) if targets.num_responses else ():
            others = part[1:].mean() if len(part) > 1 else part.new_zeros(())
            losses.append(-torch.nn.functional.logsigmoid(part[:1] - others))
            best.append(part[:1].detach())
        return ObjectiveResult(losses=torch.cat(losses), sums={"best": torch.cat(best).double().sum()})

    def reported(self, scores: torch.Tensor, targets: Targets) -> torch.Tensor:
        return scores

    def metrics(self, sums: Mapping[str, float], num_examples: int) -> dict[str, float]:
        return {"best": sums["best"] / num_examples}

    def for_data(self, datasets: Sequence[Dataset], *, flag: str = "") -> "AnyNumberObjective":
        return self


def one_step(argv: list[str], share_prefixes: bool) -> dict[str, Any]:
    """Loss, gradient norm and an updated weight of one step, on each rank."""
    from modellink_rm.base.log import set_up_logging
    from modellink_rm.base.platform import detect_platform
    from modellink_rm.batching.micro_batches import Packing, micro_batches_of
    from modellink_rm.commands.train import run_config
    from modellink_rm.parallel.groups import process_groups
    from modellink_rm.parallel.pipeline import forward_backward, micro_batches_multiple_of
    from modellink_rm.train.plan import plan_run
    from modellink_rm.train.step import StepLoss
    from modellink_rm.train.sums import no_sums, summary_of
    from modellink_rm.train.trainer import build_train_state, kernels_of

    set_up_logging()
    config = run_config(argv)
    plan = plan_run(config, world_size=int(os.environ["WORLD_SIZE"]))
    platform = detect_platform()
    with process_groups(config.parallel, platform, seed=1) as ranks:
        state = build_train_state(plan, kernels_of(plan, platform), ranks)
        packing = Packing(
            max_tokens=plan.max_tokens,
            divisible_by=config.parallel.tokens_divisible_by(),
            share_prefixes=share_prefixes,
            multiple_of=micro_batches_multiple_of(state.model),
        )
        number, batches = micro_batches_of(examples(), packing, ranks)
        loss = StepLoss(objective=AnyNumberObjective(), counts_examples=ranks.cp_rank == 0)
        on_device = (batch.to(platform.device) for batch in batches)
        kept = forward_backward(
            state.model, on_device, loss, num_micro_batches=number, num_examples=len(examples())
        )
        state.optimizer.prepare_grads()
        grad_norm = float(state.optimizer.get_grad_norm())
        state.optimizer.step_with_ready_grads()
        sums = no_sums(loss.objective, platform.device)
        for entry in kept if ranks.reports_scores else ():
            sums += entry["sums"]
        metrics = summary_of(sums.over_processes(), loss.objective).metrics
        found: dict[str, Any] = {"metrics": metrics, "grad_norm": grad_norm, "micro_batches": number}
        if ranks.is_last_stage:
            found["head"] = state.model[-1].module.rm_head.weight.detach().numpy().copy()
        return found


@pytest.fixture(scope="module")
def reference(arguments: list[str], workers: Workers) -> Any:
    return workers.run(one_step, 1, [*arguments, "--max-tokens-per-micro-batch", "1"], False)[0]


@pytest.mark.parametrize("share_prefixes", [True, full(False)], ids=["shared", "apart"])
@pytest.mark.parametrize("budget", [full("alone"), "packed", full("in_one")])
@pytest.mark.parametrize("processes", PROCESSES)
def test_step_equals_one_example_at_a_time_with_prompts_apart(
    processes: str,
    budget: str,
    share_prefixes: bool,
    reference: dict[str, Any],
    arguments: list[str],
    workers: Workers,
) -> None:
    world_size, flags = PROCESSES[processes]
    if world_size == 4 and budget == "in_one":
        pytest.skip("four processes with the budget that divides the batch are enough")
    argv = [*arguments, *flags.split(), "--max-tokens-per-micro-batch", str(BUDGETS[budget])]
    results = workers.run(one_step, world_size, argv, share_prefixes)
    for result in results:
        assert result["metrics"] == pytest.approx(reference["metrics"], abs=1e-5)
        assert result["grad_norm"] == pytest.approx(reference["grad_norm"], rel=1e-5)
        if "head" in result:
            # Adam's first step is the learning rate times the sign of the gradient: 1e-3 here.
            np.testing.assert_allclose(result["head"], reference["head"], atol=1e-5)
    if budget == "in_one" and processes != "pp2_vpp2":
        assert {result["micro_batches"] for result in results} == {1}


def test_reference_is_not_trivial(reference: dict[str, Any]) -> None:
    assert reference["micro_batches"] == len(LENGTHS)
    assert reference["grad_norm"] > 0.1
