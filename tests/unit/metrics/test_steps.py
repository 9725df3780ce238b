"""One score from the probabilities of steps."""

import math

import pytest

from modellink_rm.metrics.steps import AGGREGATES, probability_of


def test_aggregates_are_the_lowest_the_product_and_the_last():
    found = {name: aggregate([0.5, 0.25, 0.75]) for name, aggregate in AGGREGATES.items()}
    assert found == {"min": 0.25, "product": 0.09375, "last": 0.75}


def test_probability_of_log_odds_does_not_overflow():
    assert [probability_of(value) for value in (-1e4, 0.0, 1e4)] == [0.0, 0.5, 1.0]
    assert probability_of(1.5) == pytest.approx(1 / (1 + math.exp(-1.5)))
