"""What the written scores of a set say."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modellink_rm.report.curves import MOST_POINTS, column, held_out_names
from modellink_rm.report.run_files import read_run
from modellink_rm.report.scored_sets import (
    ScoredPairs,
    accuracy_of,
    by_source,
    extremes,
    pairs_of,
    scored_sets,
    summary_of,
)
from tests.unit.report.runs import scored, write_run


def found(*examples: tuple[float, ...]) -> ScoredPairs:
    pairs = pairs_of(
        [
            scored(
                number,
                scores=one,
                ranks=tuple(range(1, 1 + len(one))),
                num_tokens=tuple(range(3, 3 + len(one))),
            )
            for number, one in enumerate(examples)
        ]
    )
    assert pairs is not None
    return pairs


def test_numbers_of_pairs_are_those_worked_out_by_hand() -> None:
    summary = summary_of(found((2.0, 0.0), (1.0, 1.0), (0.0, 1.0)))
    assert summary.num_pairs == 3
    assert summary.accuracy.value == 0.5
    assert summary.longer_accuracy == 0.0
    losses = [math.log1p(math.exp(-margin)) for margin in (2.0, 0.0, -1.0)]
    assert summary.loss == pytest.approx(sum(losses) / 3)
    assert summary.chosen == 1.0
    assert summary.rejected == pytest.approx(2 / 3)


def test_every_pair_of_different_ranks_of_an_example_counts() -> None:
    pairs = found((3.0, 1.0, 4.0), (1.0, 0.0))
    assert pairs.margins.tolist() == [2.0, -1.0, -3.0, 1.0]
    assert pairs.rejected_tokens.tolist() == [4.0, 5.0, 5.0, 4.0]
    assert [one.row for one in pairs.examples] == [0, 0, 0, 1]
    tied = pairs_of([scored(0, scores=(3.0, 2.0, 1.0), ranks=(1, 2, 2), num_tokens=(1, 1, 1))])
    assert tied.places.tolist() == [[0, 1], [0, 2]]


def test_scores_beyond_those_of_a_model_are_left_out() -> None:
    pairs = found((1e308, -1e308), (2.0, 1.0), (math.nan, 0.0), (3e38, -3e38))
    assert pairs.margins.tolist() == [1.0, 6e38]


def test_scores_that_are_not_finite_are_left_out() -> None:
    assert len(found((math.nan, 1.0), (1.0, 0.0), (1.0, math.inf))) == 1
    assert pairs_of([scored(0, scores=(math.nan, 1.0))]) is None


def test_sets_are_taken_before_and_after_with_the_training_sample_last(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run"))
    reordered = dataclasses.replace(run, scores=run.scores[::-1])
    assert [one.name for one in scored_sets(reordered)] == ["maths", "valid", "train"]
    valid = scored_sets(run)[0]
    assert (valid.name, valid.iteration) == ("valid", 8)
    assert {one.iteration for one in valid.before.examples} == {0}
    assert {one.iteration for one in valid.after.examples} == {8}


def test_a_run_on_its_way_has_scores_before_alone(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run"))
    begun = dataclasses.replace(run, scores=tuple(one for one in run.scores if not one.iteration))
    assert all(one.after is None and one.before is not None for one in scored_sets(begun))


def test_the_accuracy_of_a_source_is_that_of_a_summary() -> None:
    pairs = found((1.0, 0.0), (0.0, 0.0), (0.0, 1.0), (2.0, 1.0))
    assert accuracy_of(pairs) == summary_of(pairs).accuracy.value == 0.625


def test_sources_divide_the_pairs_that_name_one() -> None:
    parts = by_source(found(*[(1.0, 0.0)] * 7))
    assert {name: [one.row for one in part.examples] for name, part in parts.items()} == {
        "a/<b>chat": [1, 4],
        "maths": [0, 3, 6],
    }


def test_extreme_pairs_have_the_sign_that_their_heading_says() -> None:
    texts: dict[str, Any] = {"prompt": "", "responses": ("", "")}
    margins = [0.5, -2.0, 3.0, -1.0, 0.0, 9.0]
    examples = [scored(number, scores=(one, 0.0), **texts) for number, one in enumerate(margins)]
    pairs = pairs_of([*examples[:5], dataclasses.replace(examples[5], responses=None)])
    assert pairs is not None
    worst, best = extremes(pairs, 2)
    assert [margins[place] for place in worst] == [-2.0, -1.0]
    assert [margins[place] for place in best] == [3.0, 0.5]


def test_long_curves_become_means_and_keep_their_mean() -> None:
    rows = [{"iteration": step, "loss": float(step % 7)} for step in range(4 * MOST_POINTS)]
    iterations, values = column([*rows, {"iteration": 9999, "loss": math.nan}], "loss")
    assert len(iterations) == MOST_POINTS
    assert iterations[0] == 1.5
    assert values.mean() == pytest.approx(np.mean([row["loss"] for row in rows]))


def test_sources_are_no_held_out_sets(tmp_path: Path) -> None:
    rows = [{"valid/loss": 1.0, "valid/chat/loss": 1.0}, {"maths/loss": 1.0, "loss": 2.0}]
    assert held_out_names(rows) == ["valid", "maths"]
