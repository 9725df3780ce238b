"""Accuracy, calibration, ranks, intervals and the paired test, against numbers worked out by hand."""

import math
from fractions import Fraction
from itertools import product

import numpy as np
import pytest

from modellink_rm.metrics.accuracy import accuracy, pair_credits
from modellink_rm.metrics.bootstrap import estimate_mean
from modellink_rm.metrics.calibration import expected_calibration_error, log_losses, reliability_curve
from modellink_rm.metrics.correlation import correlation_of_sums
from modellink_rm.metrics.paired_test import paired_difference
from modellink_rm.metrics.ranks import area_under_curve, tied_ranks
from modellink_rm.metrics.ratings import bradley_terry, kendall, pearson, spearman


def test_a_tie_counts_half() -> None:
    credits = pair_credits(np.array([1.0, 2.0, -3.0]), np.array([0.0, 2.0, -1.0]))
    assert credits.tolist() == [1.0, 0.5, 0.0]
    assert accuracy(wins=1, ties=1, num_pairs=3) == credits.mean() == 0.5


def test_losses_are_of_the_differences() -> None:
    losses = log_losses(np.array([2.0, -1.0]), np.array([0.5, 1.0]))
    assert losses == pytest.approx([math.log(1 + math.exp(-1.5)), math.log(1 + math.exp(2.0))])


def test_losses_are_finite_at_any_margin() -> None:
    losses = log_losses(np.array([0.0, 1000.0, -1000.0]), np.zeros(3))
    assert losses.tolist() == [pytest.approx(math.log(2)), 0.0, 1000.0]


def logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


def test_reliability_bins_hold_confidence_and_accuracy() -> None:
    margins = np.array([logit(0.62), logit(0.64), -logit(0.63), logit(0.97), 0.0])
    rejected = np.array([0.5, -2.0, 3.0, 0.0, 7.0])  # only differences matter
    curve = reliability_curve(rejected + margins, rejected)
    assert [(round(one.low, 2), one.num_pairs, one.accuracy) for one in curve] == [
        (0.5, 1, 0.5),
        (0.6, 3, pytest.approx(2 / 3)),
        (0.95, 1, 1.0),
    ]
    assert [one.confidence for one in curve] == pytest.approx([0.5, 0.63, 0.97])
    assert expected_calibration_error(curve) == pytest.approx((0 + 3 * (2 / 3 - 0.63) + 0.03) / 5)


def test_certainty_is_in_the_last_bin() -> None:
    (only,) = reliability_curve(np.array([1e4]), np.zeros(1))
    assert (only.high, only.confidence, only.accuracy) == (1.0, 1.0, 1.0)


def test_equal_values_share_the_mean_of_their_ranks() -> None:
    assert tied_ranks(np.array([5.0, 1.0, 5.0, 7.0])).tolist() == [2.5, 1.0, 2.5, 4.0]


def test_area_under_the_curve_is_the_share_of_ordered_couples() -> None:
    scores, positive = np.array([3.0, 1.0, 1.0, 0.0, 2.0]), np.array([True, True, False, False, False])
    # 3 is above all three; 1 equals one, is above one, and below one.
    assert area_under_curve(scores, positive) == pytest.approx((3 + 1.5) / 6)
    assert math.isnan(area_under_curve(scores, np.zeros(5, dtype=bool)))


def test_interval_of_a_share_is_the_binomial_distributions() -> None:
    credits = np.array([1.0] * 60 + [0.0] * 40)
    found = estimate_mean(credits, seed=1)
    assert found.value == 0.6
    assert (found.low, found.high) == pytest.approx((0.5, 0.69), abs=0.015)  # of 1,000 resamples
    assert estimate_mean(credits, seed=1) == found


def test_interval_of_many_values_is_the_normal_distributions() -> None:
    values = np.random.default_rng(5).normal(size=400)
    found = estimate_mean(values, seed=1)
    half = 1.96 * values.std() / 20
    assert (found.low, found.high) == pytest.approx((found.value - half, found.value + half), abs=0.01)


def test_one_value_has_no_width() -> None:
    found = estimate_mean(np.array([0.5]), seed=0)
    assert (found.low, found.value, found.high) == (0.5, 0.5, 0.5)


def enumerated_p_value(differences: list[Fraction]) -> float:
    observed = abs(sum(differences, Fraction()))
    signs = list(product((1, -1), repeat=len(differences)))
    sums = [abs(sum((s * d for s, d in zip(row, differences, strict=True)), Fraction())) for row in signs]
    return sum(one >= observed for one in sums) / len(signs)


@pytest.mark.parametrize(
    "differences",
    [
        ["1", "1", "1", "-1", "0", "1"],
        ["1/2", "1", "-1/2", "1/2", "1", "1"],
        ["1/3", "-1/4", "1", "1/2", "2/3", "1/9", "1"],
        ["0", "0"],
    ],
)
def test_p_value_is_that_of_every_choice_of_signs(differences: list[str]) -> None:
    fractions = [Fraction(one) for one in differences]
    found = paired_difference(np.array([float(one) for one in fractions]), np.zeros(len(fractions)), seed=0)
    assert found.p_value == pytest.approx(enumerated_p_value(fractions), rel=1e-9)
    assert found.difference.value == pytest.approx(float(sum(fractions)) / len(fractions))
    assert found.num_better == sum(one > 0 for one in fractions)
    assert found.num_worse == sum(one < 0 for one in fractions)


def test_p_value_of_wins_alone_is_mcnemars() -> None:
    first = np.array([1.0] * 9 + [0.0] * 2 + [1.0] * 50)
    second = np.array([0.0] * 9 + [1.0] * 2 + [1.0] * 50)
    tail = sum(math.comb(11, k) for k in (0, 1, 2)) / 2**11
    assert paired_difference(first, second, seed=0).p_value == pytest.approx(2 * tail)


def test_p_value_of_many_pairs_is_a_number() -> None:
    generator = np.random.default_rng(0)
    first, second = (generator.choice([0.0, 0.5, 1.0], size=20_000) for _ in range(2))
    assert 0.0 < paired_difference(first, second, seed=0).p_value <= 1.0


def test_ratings_are_the_odds_of_winning() -> None:
    strengths = np.array([1.0, 2.0, 4.0])
    wins = 300 * strengths[:, None] / (strengths[:, None] + strengths[None, :])
    np.fill_diagonal(wins, 0.0)
    ratings = bradley_terry(wins)
    assert (ratings - ratings[0]).tolist() == pytest.approx([0.0, math.log(2), math.log(4)], abs=1e-5)
    assert ratings.mean() == pytest.approx(0.0, abs=1e-9)


def test_a_player_that_never_wins_has_a_rating_below_all() -> None:
    ratings = bradley_terry(np.array([[0.0, 3.0, 2.0], [2.0, 0.0, 3.0], [0.0, 0.0, 0.0]]))
    assert np.isfinite(ratings).all()
    assert ratings[2] < ratings[:2].min() - 5


def test_correlations_have_their_definitions() -> None:
    first, second = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 3.0, 2.0, 2.0])
    assert pearson(first, second) == pytest.approx(1.0 / math.sqrt(5 * 2))
    assert spearman(first, 10.0**first) == pytest.approx(1.0)
    # Of six couples three agree, two disagree and one is tied in the second.
    assert kendall(first, second) == pytest.approx((3 - 2) / math.sqrt(6 * 5))
    assert math.isnan(pearson(first, np.ones(4)))


def correlation_of(first: list[float], second: list[float]) -> float:
    one, other = np.array(first), np.array(second)
    return correlation_of_sums(
        len(one),
        first=(float(one.sum()), float(one @ one)),
        second=(float(other.sum()), float(other @ other)),
        product=float(one @ other),
    )


def test_correlation_of_sums_is_that_of_the_values() -> None:
    first, second = [3.0, -1.0, 4.0, 1.5, 2.0], [10.0, 20.0, 15.0, 11.0, 30.0]
    assert correlation_of(first, second) == pytest.approx(np.corrcoef(first, second)[0, 1], rel=1e-12)
    assert correlation_of(first, [-2 * value + 1 for value in first]) == pytest.approx(-1.0)


def test_what_does_not_vary_has_no_correlation() -> None:
    assert correlation_of([], []) == 0.0
    assert correlation_of([0.1] * 3, [1.0, 2.0, 4.0]) == correlation_of([1.0, 2.0, 4.0], [7.0] * 3) == 0.0
    assert math.isnan(kendall(np.array([1.0, 1.0]), np.array([1.0, 2.0])))
    assert math.isnan(pearson(np.array([1.0, 1.0]), np.array([1.0, 2.0])))
