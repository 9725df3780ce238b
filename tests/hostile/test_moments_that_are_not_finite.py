"""A checkpoint whose optimizer holds NaN: every weight would be NaN after a step; refused before it."""

import functools
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.hostile.commands import TRAIN, Material, run
from tests.marks import full


def spoil_when_saving(kind: str) -> None:
    """Let one number of the optimizer be NaN in what is saved; for the command's own process."""
    from modellink_rm.base.megatron_compat import single_optimizers
    from modellink_rm.checkpoint.save import CheckpointSaver

    save = CheckpointSaver.save

    def save_spoilt(saver: CheckpointSaver, *, optimizer: Any, **values: Any) -> Path:
        states = single_optimizers(optimizer)[0].optimizer.state
        next(iter(states.values()))[kind].view(-1)[1] = torch.nan
        return save(saver, optimizer=optimizer, **values)

    CheckpointSaver.save = save_spoilt  # type: ignore[method-assign, assignment]


@pytest.mark.parametrize(
    ("kind", "flags"),
    [
        full("exp_avg", ""),
        full("exp_avg_sq", "--use-distributed-optimizer"),
        full("exp_avg", "--bf16"),
    ],
)
def test_moments_that_are_not_finite_are_refused_when_a_run_goes_on(
    kind: str, flags: str, material: Material, tmp_path: Path
) -> None:
    target = material.copy(tmp_path / "trial")
    words = f"{TRAIN} {flags} --save run --auto-resume --train-iters"
    spoil = functools.partial(spoil_when_saving, kind)
    assert run("train", f"{words} 1", target, first=spoil).code == 0
    outcome = run("train", f"{words} 2", target)
    assert outcome.is_one_line(), (outcome.code, outcome.stderr)
    assert outcome.errors == [
        f"error: run/iter_0000001: the optimizer's {kind} holds NaN or infinity; go on from an earlier "
        "checkpoint, or with --no-load-optim"
    ]
    assert run("train", f"{words} 2 --no-load-optim", target).code == 0
