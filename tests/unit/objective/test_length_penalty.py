"""The penalty on the correlation of scores and lengths against torch's own over the whole batch."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from modellink_rm.batching.targets import Targets, targets_of
from modellink_rm.commands.train import run_config
from modellink_rm.config.objective import ObjectiveConfig
from modellink_rm.dataset.example import Example, Response
from modellink_rm.objective.choice import choose_objective
from modellink_rm.objective.length_penalty import LengthPenalty, length_moments

WEIGHT = 0.7


def example(index: int, *lengths: int) -> Example:
    """A prompt of two tokens with responses of so many tokens."""
    responses = tuple(Response(np.ones(2 + length, np.int32), 2) for length in lengths)
    return Example(index, responses, ranks=tuple(range(1, len(lengths) + 1)))


EXAMPLES = [example(0, 5, 9), example(1, 30, 2), example(2, 7, 7), example(3, 1, 12), example(4, 20, 3)]
# Of two micro-batches.
PARTS = [EXAMPLES[:2], EXAMPLES[2:]]


def penalized() -> LengthPenalty:
    found = choose_objective("sigmoid", ObjectiveConfig(length_penalty_weight=WEIGHT))
    assert isinstance(found, LengthPenalty)
    return found


def with_moments(scores: Tensor, parts: list[Targets]) -> LengthPenalty:
    pieces = torch.split(scores.detach(), [len(part.examples) for part in parts])
    total = sum(length_moments(piece, part) for piece, part in zip(pieces, parts, strict=True))
    assert isinstance(total, Tensor)
    return dataclasses.replace(penalized(), moments=total)


def random_scores(number: int, *, slope: float = 0.2) -> Tensor:
    """Scores that correlate with lengths by the sign of the slope."""
    lengths = targets_of(EXAMPLES).num_tokens[:number].double()
    noise = torch.randn(number, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return (noise + slope * lengths).requires_grad_()


def test_each_example_keeps_its_accuracy_which_data_sets_are_told_apart_by() -> None:
    targets = targets_of(EXAMPLES[:2])
    scores = torch.tensor([2.0, 1.0, 0.0, 3.0])
    alone = choose_objective("sigmoid")(scores, targets).credits
    beside = penalized()(scores, targets).credits
    assert alone is not None
    assert beside is not None
    assert alone.tolist() == beside.tolist() == [1.0, 0.0]


@pytest.mark.parametrize("slope", [0.2, -0.2])
def test_loss_and_gradient_over_micro_batches_are_those_of_the_correlation_over_the_batch(
    slope: float,
) -> None:
    parts = [targets_of(part) for part in PARTS]
    scores = random_scores(10, slope=slope)
    objective = with_moments(scores, parts)
    losses = [
        objective(piece, part).losses for piece, part in zip(torch.split(scores, [4, 6]), parts, strict=True)
    ]
    ours = torch.cat(losses).sum() / len(EXAMPLES)
    (gradient,) = torch.autograd.grad(ours, scores)

    whole = targets_of(EXAMPLES)
    correlation = torch.corrcoef(torch.stack((scores, whole.num_tokens.double())))[0, 1]
    assert correlation.item() * slope > 0
    pairs = choose_objective("sigmoid")(scores, whole).losses.mean()
    theirs = pairs + WEIGHT * correlation.abs()
    (expected,) = torch.autograd.grad(theirs, scores)
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-12)
    torch.testing.assert_close(gradient, expected, atol=1e-12, rtol=1e-9)


def test_each_prompt_weighs_one() -> None:
    """The responses of a prompt with four weigh half as much as those of a pair."""
    whole = targets_of([example(0, 5, 9), example(1, 3, 8, 14, 21)])
    scores = torch.tensor([1.0, 0.3, 2.0, 1.5, -0.2, 0.9], dtype=torch.float64)
    objective = penalized()
    sums = {name: float(value) for name, value in objective(scores, whole).sums.items()}
    found = objective.metrics(sums, 2)
    covariance = np.cov(scores, whole.num_tokens, aweights=[2, 2, 1, 1, 1, 1], ddof=0)
    expected = covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1])
    assert found["length_correlation"] == pytest.approx(expected)
    assert found["length_penalty"] == pytest.approx(WEIGHT * abs(expected))


@pytest.mark.parametrize("value", [0.0, 3.7])
def test_equal_scores_have_no_penalty_and_no_gradient_of_it(value: float) -> None:
    whole = targets_of(EXAMPLES)
    scores = torch.full((10,), value, requires_grad=True)
    penalty = with_moments(scores, [whole])._penalty(scores, whole)
    penalty.sum().backward()
    assert penalty.tolist() == [0.0] * len(EXAMPLES)
    assert scores.grad is not None
    assert scores.grad.tolist() == [0.0] * 10


def test_equal_lengths_have_no_penalty() -> None:
    whole = targets_of([example(0, 4, 4), example(1, 4, 4)])
    scores = torch.tensor([1.0, 0.5, -2.0, 3.0], requires_grad=True)
    penalty = with_moments(scores, [whole])._penalty(scores, whole)
    penalty.sum().backward()
    assert torch.isfinite(penalty).all()
    assert scores.grad is not None
    assert scores.grad.tolist() == [0.0] * 4


def test_evaluations_report_the_correlation_and_leave_the_loss_as_it_is() -> None:
    whole = targets_of(EXAMPLES)
    scores = random_scores(10)
    result = penalized()(scores, whole)
    torch.testing.assert_close(result.losses, choose_objective("sigmoid")(scores, whole).losses)
    sums = {name: float(value) for name, value in result.sums.items()}
    expected = np.corrcoef(scores.detach(), whole.num_tokens)[0, 1]
    assert penalized().metrics(sums, 5)["length_correlation"] == pytest.approx(expected)


def test_penalty_is_off_by_default() -> None:
    assert not isinstance(choose_objective("sigmoid"), LengthPenalty)


def test_penalty_reads_the_data_as_its_objective_does() -> None:
    rows = SimpleNamespace(
        attributes=(), holds_steps=False, margin=None, probability=None, first_without_preference=lambda: None
    )
    rankings = SimpleNamespace(prefix="x", rows=rows, holds_rankings=True)
    assert penalized().for_data([rankings]).labels.examples == "prompts"  # type: ignore[list-item]


@pytest.mark.parametrize("dropout", ["--hidden-dropout 0.1", "--head-dropout 0.1"])
def test_dropout_is_refused(dropout: str) -> None:
    from modellink_rm.base.errors import UserError
    from modellink_rm.train.plan import plan_run

    words = "--stage rm --is-pairwise-dataset --data-path x --train-iters 1 --length-penalty-weight 0.1"
    config = run_config([*words.split(), *dropout.split()])
    with pytest.raises(UserError, match=f"--length-penalty-weight goes without dropout, got {dropout}"):
        plan_run(config, world_size=1)
