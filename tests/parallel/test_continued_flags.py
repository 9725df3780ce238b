"""A run that goes on steps with the flags of now: in every parameter group, and in the weights."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from modellink_rm.config.optim import OptimConfig
from tests.distributed import Workers
from tests.marks import full
from tests.parallel.conftest import NUM_STEPS
from tests.runs import run_training

if TYPE_CHECKING:
    from modellink_rm.train.optimizer import TrainState

BEGAN = {
    "lr": 1e-3,
    "min_lr": 1e-4,
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "adam_eps": 1e-8,
    "weight_decay": 0.1,
    "clip_grad": 1.0,
}
CHANGES: list[dict[str, float]] = [
    {},
    {"lr": 5e-3},
    {"min_lr": 9e-4},
    {"adam_beta1": 0.5},
    {"adam_beta2": 0.7},
    {"adam_eps": 1e-2},
    {"weight_decay": 0.6},
    {"clip_grad": 0.25},
    {name: value / 2 for name, value in BEGAN.items()},
]
TOTAL_STEPS = 2 * NUM_STEPS  # of the linear schedule


def words(flags: dict[str, float]) -> list[str]:
    return [word for name, value in flags.items() for word in (f"--{name.replace('_', '-')}", str(value))]


def step_with(argv: list[str]) -> dict[str, Any]:
    """What one step from a made-up gradient does in a run that goes on, beside what AdamW says of it."""
    from modellink_rm.base.platform import detect_platform
    from modellink_rm.commands.train import run_config
    from modellink_rm.parallel.groups import process_groups
    from modellink_rm.train.plan import plan_run
    from modellink_rm.train.trainer import build_train_state, kernels_of

    config = run_config(argv)
    plan = plan_run(config, world_size=1)
    platform = detect_platform()
    with process_groups(config.parallel, platform, seed=1) as ranks:
        state = build_train_state(plan, kernels_of(plan, platform), ranks)
        return {"iteration": state.iteration, **made_up_step(state, plan.config.optim)}


@torch.no_grad()
def made_up_step(state: "TrainState", optim: OptimConfig) -> dict[str, Any]:
    from modellink_rm.train.step import clip_gradients, gradient_norm

    parts = getattr(state.optimizer, "chained_optimizers", [state.optimizer])
    named = dict(state.model[0].module.global_parameters())
    for number, parameter in enumerate(named.values()):
        parameter.main_grad.copy_(torch.linspace(-1, 1, parameter.numel()).view_as(parameter) * (number + 1))
    state.optimizer.prepare_grads()
    norm = gradient_norm(state.optimizer)
    factor = min(1.0, optim.clip_grad / (norm + 1e-6))
    done = state.iteration / TOTAL_STEPS
    rate = optim.min_lr + (1 - done) * (optim.lr - optim.min_lr)
    expected = {}
    for part in parts:
        for group in part.optimizer.param_groups:
            for parameter in group["params"]:
                moments = part.optimizer.state[parameter]
                gradient = parameter.grad * factor
                beta1, beta2 = optim.adam_beta1, optim.adam_beta2
                time = float(moments["step"]) + 1
                first = beta1 * moments["exp_avg"] + (1 - beta1) * gradient
                second = beta2 * moments["exp_avg_sq"] + (1 - beta2) * gradient**2
                decay = optim.weight_decay * group["wd_mult"]
                denominator = (second / (1 - beta2**time)).sqrt() + optim.adam_eps
                new = parameter * (1 - rate * decay) - rate * (first / (1 - beta1**time)) / denominator
                expected[id(parameter)] = (parameter, new.clone())
    clip_gradients(state.optimizer, norm)
    state.optimizer.step_with_ready_grads()
    errors = [float((parameter - new).abs().max()) for parameter, new in expected.values()]
    groups = [
        {
            **{name: group[name] for name in ("lr", "betas", "eps", "weight_decay", "max_lr", "min_lr")},
            "wd_mult": group["wd_mult"],
            "lr_mult": group["lr_mult"],
        }
        for group in state.optimizer.param_groups
    ]
    return {"groups": groups, "error": max(errors), "norm": norm}


def steps_with(runs: list[list[str]]) -> list[dict[str, Any]]:
    return [step_with(argv) for argv in runs]


@pytest.mark.parametrize("flags", ["", full("--use-distributed-optimizer")])
def test_flags_of_now_are_in_every_group_and_in_the_weights(
    flags: str, arguments: list[str], workers: Workers, tmp_path: Path
) -> None:
    schedule = f"--lr-decay-style linear --lr-decay-iters {TOTAL_STEPS} --train-iters {TOTAL_STEPS}"
    common = [*arguments, *flags.split(), *schedule.split(), *words(BEGAN)]
    run_training(workers, 1, [*common, "--train-iters", str(NUM_STEPS)], tmp_path)
    resumed = [*common, "--auto-resume", "--save", str(tmp_path)]
    results = workers.run(steps_with, 1, [[*resumed, *words(change)] for change in CHANGES])[0]
    for change, result in zip(CHANGES, results, strict=True):
        now = {**BEGAN, **change}
        assert result["iteration"] == NUM_STEPS
        assert result["norm"] > 1  # so that clipping shows
        assert {group["wd_mult"] for group in result["groups"]} == {0.0, 1.0}
        for group in result["groups"]:
            assert (group["max_lr"], group["min_lr"]) == (now["lr"], now["min_lr"]), change
            assert group["lr"] == pytest.approx((now["lr"] + now["min_lr"]) / 2)
            assert tuple(group["betas"]) == (now["adam_beta1"], now["adam_beta2"])
            assert group["eps"] == now["adam_eps"]
            assert group["weight_decay"] == now["weight_decay"] * group["wd_mult"]
            assert group["lr_mult"] == 1.0
        # float32 rounding of weights of about 1.
        assert result["error"] < 1e-6, change
    assert math.isclose(results[0]["groups"][0]["lr"], 5.5e-4)
