"""The pairwise objective and its metrics, against numbers worked out by hand."""

import math

import numpy as np
import pytest
import torch

from modellink_rm.batching.targets import Targets
from modellink_rm.objective.choice import choose_objective
from modellink_rm.objective.losses.registry import ScoredPairs
from modellink_rm.objective.pairwise import PairwiseObjective


def targets_of_pairs(num_pairs: int, margins: list[float] | None = None) -> Targets:
    by_pair = margins or [math.nan] * num_pairs
    return Targets(
        num_responses=(2,) * num_pairs,
        ranks=torch.tensor([1, 2] * num_pairs),
        margins=torch.tensor([value for margin in by_pair for value in (0.0, margin)]),
    )


def test_losses_are_of_each_pair_and_metrics_of_all() -> None:
    scores = torch.tensor([1.0, 0.5, 2.0, 2.0, -1.0, 3.0], requires_grad=True)
    objective = choose_objective("sigmoid")
    result = objective(scores, targets_of_pairs(3))
    margins = [0.5, 0.0, -4.0]
    expected = [math.log(1 + math.exp(-margin)) for margin in margins]
    assert result.losses.tolist() == pytest.approx(expected, rel=1e-6)
    assert result.losses.requires_grad
    assert tuple(result.sums) == objective.sum_names
    assert {(value.dtype, value.requires_grad) for value in result.sums.values()} == {(torch.float64, False)}
    metrics = objective.metrics({name: float(value) for name, value in result.sums.items()}, 3)
    assert metrics == {
        "accuracy": pytest.approx((1 + 0.5 + 0) / 3),
        "chosen_score": pytest.approx(2 / 3),
        "rejected_score": pytest.approx(5.5 / 3),
        "margin": pytest.approx(sum(margins) / 3),
        "chosen_std": pytest.approx(np.std([1.0, 2.0, -1.0])),
        "rejected_std": pytest.approx(np.std([0.5, 2.0, 3.0])),
        "ties": 1,
    }
    assert set(objective.details) < set(metrics)


def test_loss_is_given_scores_and_margins_by_pair() -> None:
    def scaled(pairs: ScoredPairs) -> torch.Tensor:
        return pairs.margins * (pairs.chosen - pairs.rejected)

    scores = torch.tensor([3.0, 1.0, 5.0, 1.0])
    result = PairwiseObjective(loss=scaled)(scores, targets_of_pairs(2, margins=[0.5, 2.0]))
    assert result.losses.tolist() == [1.0, 8.0]


def test_no_pair_has_no_loss_and_sums_of_zero() -> None:
    result = choose_objective("sigmoid")(torch.ones(0), targets_of_pairs(0))
    assert len(result.losses) == 0
    assert [float(value) for value in result.sums.values()] == [0.0] * 6
