"""The best evaluation of a run, and when it no longer improves."""

import math
from pathlib import Path

import pytest

from modellink_rm.report.best import BestCheckpoint, read_best, write_best
from modellink_rm.train.best import BestSoFar, correct_best


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


LOSS = "valid/loss"


def named(metric: str = "valid/accuracy", *, iteration: int, value: float = 0.9) -> BestCheckpoint:
    return BestCheckpoint(iteration=iteration, metric=metric, value=value)


@pytest.mark.parametrize(
    ("before", "metric", "so_far", "after"),
    [
        # Of a run that was begun without --save-best.
        (None, "valid/accuracy", named(iteration=2), named(iteration=2)),
        (None, "valid/accuracy", named(iteration=3), None),
        (None, "valid/accuracy", None, None),
        (named(iteration=2), "valid/accuracy", named(iteration=2), named(iteration=2)),
        (named(iteration=2), None, None, named(iteration=2)),
        (named(iteration=2), "valid/accuracy", None, named(iteration=2)),  # without the rows before
        # Of one that was killed between its best checkpoint and best.json.
        (
            named(iteration=2),
            "valid/accuracy",
            named(iteration=4, value=0.95),
            named(iteration=4, value=0.95),
        ),
        (
            named(LOSS, iteration=2),
            LOSS,
            named(LOSS, iteration=4, value=0.8),
            named(LOSS, iteration=4, value=0.8),
        ),
        (named(iteration=2), "valid/accuracy", named(iteration=4, value=0.8), named(iteration=2)),
        (named(iteration=2), "valid/accuracy", named(iteration=3, value=0.95), named(iteration=2)),
        # Of a run that was taken back to iteration 4, which writes another iteration 6.
        (named(iteration=6), "valid/accuracy", named(iteration=2, value=0.8), named(iteration=2, value=0.8)),
        (named(iteration=6), "valid/accuracy", named(iteration=3, value=0.8), None),
        (named(iteration=6), "valid/accuracy", None, None),
        (named(iteration=6), None, None, None),
        (
            named(iteration=2),
            "valid/loss",
            named("valid/loss", iteration=4),
            named("valid/loss", iteration=4),
        ),
    ],
)
def test_best_checkpoint_of_a_resumed_run_is_its_own_and_is_there(
    before: BestCheckpoint | None,
    metric: str | None,
    so_far: BestCheckpoint | None,
    after: BestCheckpoint | None,
    tmp_path: Path,
) -> None:
    for iteration in (2, 4, 6):  # that of iteration 3 is gone
        (tmp_path / f"iter_{iteration:07d}").mkdir()
    if before is not None:
        write_best(tmp_path, before)
    correct_best(tmp_path, 4, None if metric is None else BestSoFar(metric=metric, best=so_far))
    assert read_best(tmp_path) == after


def test_best_evaluation_without_its_checkpoint_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages: list[str] = []
    monkeypatch.setattr("modellink_rm.train.best.info", messages.append)
    correct_best(tmp_path, 4, BestSoFar(metric="valid/accuracy", best=named(iteration=3)))
    assert messages == ["best so far: valid/accuracy 0.9000 at iteration 3, whose checkpoint is not there"]
