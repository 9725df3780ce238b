"""When two short runs from the same weights are equal but for rounding."""

from collections.abc import Sequence

import pytest
import torch

from tests.parallel.conftest import NUM_STEPS
from tests.runs import RunResult

_METRICS = ("valid/loss", "valid/margin", "valid/accuracy", "valid/chosen_std")


def check_same(run: RunResult, single: RunResult, *, metrics: Sequence[str] = _METRICS) -> None:
    # Sums in another order: float32 rounding, grown by four Adam steps at a large learning rate.
    assert run.column("loss") == pytest.approx(single.column("loss"), abs=2e-5)
    assert run.column("grad_norm") == pytest.approx(single.column("grad_norm"), rel=1e-4)
    assert run.steps[0]["loss"] == pytest.approx(single.steps[0]["loss"], abs=1e-6)
    assert run.steps[0]["grad_norm"] == pytest.approx(single.steps[0]["grad_norm"], rel=1e-5)
    evaluations = [[row for row in result.rows if "valid/loss" in row] for result in (run, single)]
    assert len(evaluations[0]) == len(evaluations[1]) == 3  # before the first step, after two and four
    for ours, theirs in zip(*evaluations, strict=True):
        # Not the scores themselves: the gradient of the head's bias is rounding noise alone, which
        # Adam turns into a drift that both sides of a pair share.
        for name in metrics:
            assert ours[name] == pytest.approx(theirs[name], abs=1e-4)
    check_same_weights(run, single)


def check_same_weights(run: RunResult, single: RunResult) -> None:
    assert run.weights.keys() == single.weights.keys()
    for name, weight in single.weights.items():
        # Adam turns rounding noise in a gradient near 0 into steps of up to the learning rate; that
        # of the head's bias, which both scores of a pair have, is nothing else.
        atol = 1e-3 * NUM_STEPS if name == "rm_head.bias" else 2e-4
        difference = f"{name} differs"
        torch.testing.assert_close(run.weights[name], weight, atol=atol, rtol=1e-3, msg=difference)
