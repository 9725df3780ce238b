"""The best evaluation of a run, and when it no longer improves."""

import math

import pytest

from modellink_rm.train.best import BestSoFar


@pytest.mark.parametrize(
    ("metric", "values", "improving"),
    [
        ("valid/accuracy", [0.5, 0.6, 0.6, 0.7], [True, True, False, True]),
        ("valid/loss", [0.5, 0.6, 0.5, 0.4], [True, False, False, True]),
        ("valid/loss", [math.nan, 0.6, math.nan], [False, True, False]),
        ("maths/margin", [-1.0, -2.0, 0.0], [True, False, True]),
    ],
)
def test_only_a_better_value_improves(metric: str, values: list[float], improving: list[bool]) -> None:
    best = BestSoFar(metric=metric)
    assert [best.add({metric: value}, number) for number, value in enumerate(values, start=1)] == improving


def test_the_untrained_model_and_other_rows_do_not_count() -> None:
    best = BestSoFar(metric="valid/accuracy", patience=1)
    assert not best.add({"valid/accuracy": 0.9}, 0)
    assert not best.add({"loss": 0.1}, 1)
    assert best.best is None
    assert not best.is_exhausted


def test_a_run_is_exhausted_after_its_patience_and_not_before() -> None:
    rows = [
        {"iteration": number, "valid/accuracy": value} for number, value in ((1, 0.6), (2, 0.5), (3, 0.6))
    ]
    best = BestSoFar(metric="valid/accuracy", patience=2)
    best.add_rows(rows[:2])
    assert not best.is_exhausted
    best.add_rows(rows[2:])
    assert best.is_exhausted
    assert best.best.iteration == 1
