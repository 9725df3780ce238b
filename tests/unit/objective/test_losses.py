"""Losses of pairs against numbers worked out by hand, and how they are known by name."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from modellink_rm.base.errors import UserError
from modellink_rm.config.objective import ObjectiveConfig
from modellink_rm.objective.choice import choose_objective
from modellink_rm.objective.losses.focal import FocalLoss
from modellink_rm.objective.losses.logexp import logexp_loss
from modellink_rm.objective.losses.registry import LOSSES, PairLoss, ScoredPairs
from modellink_rm.objective.losses.sigmoid import sigmoid_loss
from modellink_rm.objective.objective import Objective
from modellink_rm.objective.preference import PreferenceObjective
from modellink_rm.objective.terms.range_penalty import RangePenalty
from tests.unit.objective.targets import pairs, targets

# Those of scores that are compared with each other; ratings have tests of their own.
OF_PREFERENCES = sorted(set(LOSSES) - {"regression"})


def losses_of(loss: PairLoss, chosen: list[float], rejected: list[float]) -> list[float]:
    nothing = torch.full((len(chosen),), math.nan)
    pairs = ScoredPairs(chosen=torch.tensor(chosen), rejected=torch.tensor(rejected), margins=nothing)
    return loss(pairs).tolist()


def objective_of(name: str) -> Objective:
    """The loss of that name, with ties where it can train on them and terms that do not change with it."""
    has_ties = name in ("sigmoid", "logexp", "kwise")
    return choose_objective(name, ObjectiveConfig(tie_threshold=0.5 if has_ties else 0.0))


def test_sigmoid_loss_is_minus_log_sigmoid_of_the_margin() -> None:
    expected = [math.log(1 + math.exp(-1)), math.log(2), math.log(1 + math.exp(3))]
    found = losses_of(sigmoid_loss, [1.0, 0.0, -2.0], [0.0, 0.0, 1.0])
    assert found == pytest.approx(expected, rel=1e-6)
    assert losses_of(logexp_loss, [1.0, 0.0, -2.0], [0.0, 0.0, 1.0]) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0])
def test_focal_loss_is_internlm2s(gamma: float) -> None:
    """Of XTuner's formula: (1 - 2 max(0, p - 1/2))^gamma * -log p."""
    differences = [1.0, 0.0, -2.0, 3.0]
    probabilities = [1 / (1 + math.exp(-difference)) for difference in differences]
    expected = [(1 - 2 * max(0.0, p - 0.5)) ** gamma * -math.log(p) for p in probabilities]
    found = losses_of(FocalLoss(gamma=gamma), differences, [0.0] * 4)
    assert found == pytest.approx(expected, rel=1e-5)


def test_scaled_loss_weighs_a_pair_by_the_strength_of_its_preference() -> None:
    scores = torch.tensor([1.0, 0.0, 1.0, 0.0])
    found = choose_objective("scaled")(scores, pairs(2, margins=[3.0, 1.0])).losses.tolist()
    assert found == pytest.approx([3 * math.log1p(math.exp(-1)), math.log1p(math.exp(-1))], rel=1e-6)


def test_listwise_loss_is_that_of_drawing_the_responses_one_after_the_other() -> None:
    scores = torch.tensor([0.3, -1.0, 2.0, 1.5, 1.0], dtype=torch.float64)
    weights = scores.exp().tolist()
    of_three = math.log(weights[0] / sum(weights[:3])) + math.log(weights[1] / sum(weights[1:3]))
    found = choose_objective("listwise")(scores, targets((1, 2, 3), (1, 2))).losses.tolist()
    assert found == pytest.approx([-of_three, math.log1p(math.exp(-0.5))], rel=1e-12)


@pytest.mark.parametrize("name", OF_PREFERENCES)
@pytest.mark.parametrize("size", [1e2, 1e4])
def test_loss_and_gradient_are_finite_at_scores_far_apart(name: str, size: float) -> None:
    scores = torch.tensor([0.0, size, size, 0.0, 3.0, 3.0], requires_grad=True)
    data = targets((1, 2), (1, 2), (1, 1), margins=((1.0,), (1.0,), (0.0,)))
    losses = objective_of(name)(scores, data).losses
    losses.sum().backward()
    assert torch.isfinite(losses).all()
    assert scores.grad is not None
    assert torch.isfinite(scores.grad).all()
    assert losses[0] > losses[1] >= 0.0


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.5])
def test_focal_loss_has_a_finite_gradient_for_any_exponent_and_difference(gamma: float) -> None:
    chosen = torch.tensor([1e4, 200.0, 0.0, -1e4], requires_grad=True)
    nothing = torch.full((4,), math.nan)
    FocalLoss(gamma=gamma)(
        ScoredPairs(chosen=chosen, rejected=torch.zeros(4), margins=nothing)
    ).sum().backward()
    assert chosen.grad is not None
    assert chosen.grad.tolist() == pytest.approx([0.0, 0.0, -0.5, -1.0])


@pytest.mark.parametrize("name", OF_PREFERENCES)
def test_gradient_is_that_of_the_function(name: str) -> None:
    scores = torch.tensor([0.3, -1.0, 2.0, 1.5, -0.7, 0.2], dtype=torch.float64, requires_grad=True)
    data = targets((1, 2, 2, 3), (1, 2), margins=((1.0, 1.0, 2.5), (0.5,)))
    data = data.with_tensors(lambda tensor: tensor.double() if tensor.is_floating_point() else tensor)
    objective = objective_of(name)
    torch.autograd.gradcheck(lambda scores: objective(scores, data).losses, (scores,))


@pytest.mark.parametrize("name", ["centering_weight", "score_l2_weight", "range_penalty_weight"])
def test_gradient_of_a_term_is_that_of_the_function(name: str) -> None:
    scores = torch.tensor([0.3, -1.0, 4.9, -6.0, 80.0, 0.2], dtype=torch.float64, requires_grad=True)
    weights: dict[str, Any] = {name: 0.5}
    objective = choose_objective("sigmoid", ObjectiveConfig(**weights))
    data = targets((1, 2, 2, 3), (1, 2))
    data = data.with_tensors(lambda tensor: tensor.double() if tensor.is_floating_point() else tensor)
    torch.autograd.gradcheck(lambda scores: objective(scores, data).losses, (scores,), atol=1e-4)


def test_score_outside_the_range_is_pulled_back() -> None:
    scores = torch.tensor([7.0, -1e4], requires_grad=True)
    RangePenalty(weight=0.02, low=-5.0, high=5.0)(scores, pairs(1)).sum().backward()
    assert scores.grad is not None
    assert scores.grad[0] > 1.0
    assert scores.grad[1] < -1.0


def test_range_penalty_outside_the_range_is_the_tangent_of_the_barrier() -> None:
    """In float32, where the distance from the end to the edge of the barrier has three digits."""
    scores = torch.tensor([7.0, -6.0], requires_grad=True)
    found = RangePenalty(weight=1.0, low=-5.0, high=5.0)(scores, pairs(1))
    found.sum().backward()
    at_edge, slope = -math.log(1e-3) - math.log(9.999), 1 / 1e-3 - 1 / 9.999
    assert found.item() == pytest.approx(at_edge + slope * (2.001 + 1.001) / 2, rel=1e-6)
    assert scores.grad is not None
    assert scores.grad.tolist() == pytest.approx([slope / 2, -slope / 2], rel=1e-6)


@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [
        ("focal", {"tie_threshold": 0.1}, "--tie-threshold has no meaning for --loss-type focal"),
        ("listwise", {"label_smoothing": 0.1}, "--label-smoothing has no meaning for --loss-type listwise"),
        ("scaled", {"margin_weight": 0.0}, "--margin-weight cannot be 0"),
    ],
)
def test_flags_that_have_no_meaning_for_a_loss_are_refused(
    name: str, flags: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        choose_objective(name, ObjectiveConfig(**flags))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"label_smoothing": 0.5}, "--label-smoothing must be below 0.5, got 0.5"),
        ({"score_range": (5.0, -5.0)}, "--score-range takes a lowest and a highest score above it, got 5 -5"),
        ({"focal_gamma": -1.0}, "--focal-gamma must not be negative, got -1"),
    ],
)
def test_values_that_make_no_loss_are_refused(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ObjectiveConfig(**flags)


def test_unknown_loss_is_an_error_that_lists_the_choices() -> None:
    choices = "focal, kwise, listwise, logexp, regression, scaled, sigmoid"
    with pytest.raises(UserError, match=rf"unknown --loss-type 'help' \(choices: {choices}\)"):
        choose_objective("help")


def test_installed_package_offers_a_loss_by_an_entry_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hinge.py").write_text(
        "def hinge_loss(pairs):\n    return (1 - (pairs.chosen - pairs.rejected)).clamp(min=0)\n"
    )
    metadata = tmp_path / "hinge-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: hinge\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[modellink_rm.losses]\nhinge = hinge:hinge_loss\n")
    assert "hinge" not in LOSSES
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(LOSSES, "_entries", {**LOSSES._entries})  # forgotten after the test
    objective = choose_objective("hinge")
    assert isinstance(objective, PreferenceObjective)
    assert callable(objective.loss)
    assert losses_of(objective.loss, [3.0, 0.0], [1.0, 2.0]) == [0.0, 3.0]
