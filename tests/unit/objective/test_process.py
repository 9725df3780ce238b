"""The objective of process rewards, against numbers worked out by hand and torch's own cross entropy."""

import math

import pytest
import torch

from modellink_rm.base.errors import UserError
from modellink_rm.config.objective import ObjectiveConfig
from modellink_rm.model.heads.steps import StepHead
from modellink_rm.objective.choice import choose_objective
from modellink_rm.objective.process import ProcessObjective
from tests.unit.objective.targets import steps

NAN = math.nan


def softplus(value: float) -> float:
    return math.log1p(math.exp(value))


def test_losses_and_metrics_are_over_labelled_steps() -> None:
    scores = torch.tensor([2.0, -1.0, 5.0, 0.5, -3.0], requires_grad=True)
    objective = ProcessObjective()
    result = objective(scores, steps((1.0, 0.0, NAN), (0.25, 1.0), weight=0.5))
    by_hand = [softplus(-2.0), softplus(-1.0), 0.25 * softplus(-0.5) + 0.75 * softplus(0.5), softplus(3.0)]
    assert result.losses.tolist() == pytest.approx(
        [0.5 * (by_hand[0] + by_hand[1]), 0.5 * (by_hand[2] + by_hand[3])], rel=1e-6
    )
    assert tuple(result.sums) == objective.sum_names
    assert {(value.dtype, value.requires_grad) for value in result.sums.values()} == {(torch.float64, False)}
    metrics = objective.metrics({name: float(value) for name, value in result.sums.items()}, 2)
    assert metrics == {
        "loss": pytest.approx(sum(by_hand) / 4, rel=1e-6),
        "accuracy": 0.5,
        "probability": pytest.approx(sum(1 / (1 + math.exp(-score)) for score in (2, -1, 0.5, -3)) / 4),
        "right_accuracy": 0.5,
        "wrong_accuracy": 0.5,
        "steps": 4,
    }
    assert set(objective.details) < set(metrics)


def test_an_even_label_is_of_a_right_step_and_a_score_of_0_says_wrong() -> None:
    objective = ProcessObjective()
    result = objective(torch.tensor([1.0, 0.0, 0.0]), steps((0.5, 0.5, 0.0)))
    metrics = objective.metrics({name: float(value) for name, value in result.sums.items()}, 1)
    assert (metrics["right_accuracy"], metrics["wrong_accuracy"]) == (0.5, 1.0)


def test_metrics_of_a_kind_that_is_not_there_are_left_out() -> None:
    objective = ProcessObjective()
    result = objective(torch.tensor([1.0]), steps((1.0,)))
    metrics = objective.metrics({name: float(value) for name, value in result.sums.items()}, 1)
    assert "wrong_accuracy" not in metrics
    assert metrics["right_accuracy"] == 1.0


def test_no_step_has_no_loss_and_unlabelled_steps_no_gradient() -> None:
    result = ProcessObjective()(torch.ones(0), steps((), ()))
    assert result.losses.tolist() == [0.0, 0.0]
    scores = torch.tensor([1.0, 2.0], requires_grad=True)
    ProcessObjective()(scores, steps((NAN, 1.0))).losses.sum().backward()
    assert scores.grad is not None
    assert scores.grad.tolist() == pytest.approx([0.0, -1 / (1 + math.exp(2.0))])


def test_loss_is_finite_at_any_score() -> None:
    scores = torch.tensor([1e4, -1e4, 1e4, -1e4], requires_grad=True)
    losses = ProcessObjective()(scores, steps((1.0, 0.0, 0.0, 0.5))).losses
    assert losses.tolist() == [pytest.approx(1.5e4)]
    losses.sum().backward()
    assert scores.grad is not None
    assert scores.grad.tolist() == [0.0, 0.0, 1.0, -0.5]


def test_gradients_are_those_of_differences() -> None:
    targets = steps((1.0, 0.3, NAN), (0.0,), weight=0.7).with_tensors(
        lambda tensor: tensor.double() if tensor.dtype == torch.float32 else tensor
    )
    scores = torch.randn(4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda values: ProcessObjective()(values, targets).losses, scores)


def test_step_head_with_the_objective_is_cross_entropy_of_two_labels() -> None:
    torch.manual_seed(3)
    head = StepHead(8, device=torch.device("cpu"))
    plain = torch.nn.Linear(8, 2)
    plain.load_state_dict(head.state_dict())
    rows = torch.randn(5, 8)
    labels = torch.tensor([1, 0, 0, 1, 1])
    loss = ProcessObjective()(head(rows), steps(tuple(labels.float().tolist()), weight=1 / 5)).losses.sum()
    expected = torch.nn.functional.cross_entropy(plain(rows), labels)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    loss.backward()
    expected.backward()
    for ours, theirs in zip(head.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-7)


def test_equal_rows_get_bitwise_equal_scores() -> None:
    head = StepHead(64, device=torch.device("cpu"))
    row = torch.randn(64)
    assert len(set(head(row.expand(33, 64)).tolist())) == 1


def test_flags_of_preferences_are_refused_with_stage_prm() -> None:
    assert isinstance(choose_objective("sigmoid", stage="prm"), ProcessObjective)
    with pytest.raises(UserError, match="--label-smoothing has no meaning with --stage prm"):
        choose_objective("sigmoid", ObjectiveConfig(label_smoothing=0.1), stage="prm")
