"""The objective of pairs and rankings and its metrics, against numbers worked out by hand."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch

from modellink_rm.config.objective import ObjectiveConfig
from modellink_rm.objective.choice import choose_objective
from modellink_rm.objective.losses.registry import ScoredPairs
from modellink_rm.objective.preference import PreferenceObjective
from tests.unit.objective.targets import pairs, targets


def softplus(value: float) -> float:
    return math.log1p(math.exp(value))


def test_losses_are_of_each_pair_and_metrics_of_all() -> None:
    scores = torch.tensor([1.0, 0.5, 2.0, 2.0, -1.0, 3.0], requires_grad=True)
    objective = choose_objective("sigmoid")
    result = objective(scores, pairs(3))
    margins = [0.5, 0.0, -4.0]
    assert result.losses.tolist() == pytest.approx([softplus(-margin) for margin in margins], rel=1e-6)
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
    result = PreferenceObjective(loss=scaled)(scores, pairs(2, margins=[0.5, 2.0]))
    assert result.losses.tolist() == [1.0, 8.0]


@pytest.mark.parametrize("loss", ["sigmoid", "listwise"])
def test_no_example_has_no_loss_and_sums_of_zero(loss: str) -> None:
    result = choose_objective(loss)(torch.ones(0), targets())
    assert len(result.losses) == 0
    assert [float(value) for value in result.sums.values()] == [0.0] * 8


@pytest.mark.parametrize("loss", ["sigmoid", "kwise", "logexp"])
def test_example_of_k_responses_weighs_one_and_is_the_mean_of_its_pairs(loss: str) -> None:
    scores = torch.tensor([0.3, -1.0, 2.0, 0.5, 1.5, 1.0], dtype=torch.float64)
    result = choose_objective(loss)(scores, targets((1, 2, 3, 4), (1, 2)))
    of_ranking = [softplus(float(worse - better)) for better, worse in itertools.combinations(scores[:4], 2)]
    assert result.losses.tolist() == pytest.approx([np.mean(of_ranking), softplus(-0.5)], rel=1e-12)


def test_metrics_of_a_ranking_are_means_over_its_pairs() -> None:
    objective = choose_objective("sigmoid")
    result = objective(torch.tensor([3.0, 3.0, 1.0]), targets((1, 2, 3)))
    metrics = objective.metrics({name: float(value) for name, value in result.sums.items()}, 1)
    assert metrics["accuracy"] == pytest.approx((0.5 + 1 + 1) / 3)
    assert (metrics["chosen_score"], metrics["margin"]) == pytest.approx((3.0, 4 / 3))
    assert metrics["ties"] == 1


def test_an_example_whose_responses_are_all_tied_is_no_lost_pair() -> None:
    objective = choose_objective("sigmoid", ObjectiveConfig(tie_threshold=0.5))
    result = objective(torch.tensor([3.0, 1.0, 5.0, 4.0]), targets((1, 2), (1, 1)))
    metrics = objective.metrics({name: float(value) for name, value in result.sums.items()}, 2)
    assert metrics["accuracy"] == 1.0
    assert (metrics["chosen_score"], metrics["rejected_score"], metrics["chosen_std"]) == (3.0, 1.0, 0.0)
    assert result.credits is not None
    assert result.credits[0] == 1.0
    assert result.credits[1].isnan()


def test_two_responses_of_one_rank_are_left_out_of_the_pairs() -> None:
    scores = torch.tensor([2.0, 0.0, 1.0])
    result = choose_objective("sigmoid")(scores, targets((1, 2, 2)))
    assert result.losses.tolist() == pytest.approx([(softplus(-2.0) + softplus(-1.0)) / 2], rel=1e-6)


def test_tie_threshold_trains_on_ties_with_the_probabilities_of_rao_and_kupper() -> None:
    theta, scores = 1.5, torch.tensor([2.0, 0.0, 1.0], dtype=torch.float64)
    config = ObjectiveConfig(tie_threshold=math.log(theta))
    result = choose_objective("sigmoid", config)(scores, targets((1, 2, 2)))
    first, second, third = (math.exp(score) for score in scores)
    wins = [first / (first + theta * other) for other in (second, third)]
    tie = (theta**2 - 1) * second * third / ((second + theta * third) * (third + theta * second))
    assert result.losses.tolist() == pytest.approx([-np.mean(np.log([*wins, tie]))], rel=1e-12)


def test_label_smoothing_mixes_in_the_loss_of_the_other_label() -> None:
    config = ObjectiveConfig(label_smoothing=0.1)
    result = choose_objective("sigmoid", config)(torch.tensor([2.0, 0.5]), pairs(1))
    assert result.losses.tolist() == pytest.approx([0.9 * softplus(-1.5) + 0.1 * softplus(1.5)], rel=1e-6)


def test_smoothing_turns_labels_round_that_are_probabilities_and_the_threshold_holds_for_both() -> None:
    config = ObjectiveConfig(label_smoothing=0.1, tie_threshold=0.5)
    known = dataclasses.replace(pairs(1), probabilities=torch.tensor([1.0, 0.7]))
    objective = dataclasses.replace(choose_objective("sigmoid", config), uses_probabilities=True)  # type: ignore[type-var]
    result = objective(torch.tensor([2.0, 0.5]), known)
    right = 0.7 * 0.9 + 0.3 * 0.1
    by_hand = right * softplus(0.5 - 1.5) + (1 - right) * softplus(0.5 + 1.5)
    assert result.losses.tolist() == pytest.approx([by_hand], rel=1e-6)


def test_margins_of_the_data_are_subtracted_and_weighted() -> None:
    scores = torch.tensor([2.0, 0.5, 1.0, 0.0])
    data = pairs(2, margins=[3.0, None])
    for weight, margin in ((1.0, 3.0), (0.5, 1.5), (0.0, 0.0)):
        result = choose_objective("sigmoid", ObjectiveConfig(margin_weight=weight))(scores, data)
        assert result.losses.tolist() == pytest.approx([softplus(margin - 1.5), softplus(-1.0)], rel=1e-6)


def test_margin_of_two_responses_is_the_difference_of_theirs_to_the_best() -> None:
    scores = torch.tensor([0.0, 0.0, 0.0])
    result = choose_objective("kwise")(scores, targets((1, 2, 3), margins=((1.0, 4.0),)))
    assert result.losses.tolist() == pytest.approx(
        [np.mean([softplus(m) for m in (1.0, 4.0, 3.0)])], rel=1e-6
    )


def test_terms_are_added_and_reported() -> None:
    config = ObjectiveConfig(centering_weight=0.01, score_l2_weight=0.1, range_penalty_weight=0.02)
    objective = choose_objective("sigmoid", config)
    result = objective(torch.tensor([2.0, -1.0]), pairs(1))
    terms: dict[str, float] = {
        "centering": 0.01,
        "score_l2": 0.1 * (4 + 1) / 2,
        "range_penalty": -0.02 * (math.log(3 * 7) + math.log(6 * 4)) / 2,
    }
    assert result.losses.tolist() == pytest.approx([softplus(-3.0) + sum(terms.values())], rel=1e-6)
    metrics = objective.metrics({name: float(value) for name, value in result.sums.items()}, 1)
    assert {name: metrics[name] for name in terms} == pytest.approx(terms, rel=1e-6)
