"""Parts of a set, against numbers worked out by hand."""

import math
from collections.abc import Sequence

import numpy as np
import pytest

from modellink_rm.evaluation.groups import (
    MOST_SOURCES,
    groups_by_length,
    groups_by_margin,
    groups_by_source,
    parts_by_number,
)
from modellink_rm.evaluation.pairs import EvaluatedPairs


def pairs_of(
    chosen: list[float],
    rejected: list[float],
    *,
    lengths: list[tuple[int, int]] | None = None,
    margins: list[float] | None = None,
    sources: Sequence[str | None] = (),
) -> EvaluatedPairs:
    count = len(chosen)
    both = np.array(lengths or [(1, 1)] * count).reshape(-1, 2)
    return EvaluatedPairs(
        numbers=np.arange(count),
        chosen=np.array(chosen),
        rejected=np.array(rejected),
        chosen_length=both[:, 0],
        rejected_length=both[:, 1],
        margins=np.array(margins or [math.nan] * count),
        sources=tuple(sources) or (None,) * count,
    )


def test_sources_are_named_and_pairs_without_one_are_together() -> None:
    pairs = pairs_of([1, 2, 0, 0], [0, 2, 1, 1], sources=["web", "code", "web", None])
    found = groups_by_source(pairs, seed=0)
    assert [(one.name, one.num_pairs, one.accuracy.value) for one in found] == [
        ("(no source)", 1, 0.0),
        ("code", 1, 0.5),
        ("web", 2, 0.5),
    ]


def test_no_source_makes_no_group() -> None:
    assert groups_by_source(pairs_of([1], [0]), seed=0) == []


def test_small_sources_beyond_the_largest_are_together() -> None:
    sources = ["large"] * 5 + [f"small{number:03}" for number in range(MOST_SOURCES + 4)]
    found = groups_by_source(pairs_of([1] * len(sources), [0] * len(sources), sources=sources), seed=0)
    assert len(found) == MOST_SOURCES + 1
    assert {one.name: one.num_pairs for one in found}["(5 other sources)"] == 5


def test_longer_accuracy_is_of_the_length_alone() -> None:
    pairs = pairs_of([0, 0, 0], [1, 1, 1], lengths=[(9, 2), (2, 9), (4, 4)])
    found = groups_by_length(pairs, seed=0)
    assert [(one.name, one.longer_accuracy, one.accuracy.value) for one in found] == [
        ("-7", 0.0, 0.0),
        ("0", 0.5, 0.0),
        ("7", 1.0, 0.0),
    ]


def test_pairs_without_a_margin_are_in_no_part() -> None:
    found = groups_by_margin(pairs_of([1, 1, 0], [0, 0, 1], margins=[1.0, 3.0, math.nan]), seed=0)
    assert [(one.name, one.num_pairs) for one in found] == [("1", 1), ("3", 1)]
    assert groups_by_margin(pairs_of([1], [0]), seed=0) == []


def test_many_values_make_five_parts_that_divide_no_equal_values() -> None:
    values = np.array([0.0] * 50 + list(range(1, 51)), dtype=np.float64)
    parts = parts_by_number(values)
    assert sum(int(mask.sum()) for _, mask in parts) == 100
    assert parts[0][0] == "0"
    assert parts[0][1].sum() == 50
    assert parts[-1][0].endswith(" to 50")


@pytest.mark.parametrize("size", [6, 7, 10, 101])
def test_parts_of_distinct_values_are_of_about_equal_size(size: int) -> None:
    sizes = [int(mask.sum()) for _, mask in parts_by_number(np.arange(size, dtype=np.float64))]
    assert len(sizes) == 5
    assert max(sizes) - min(sizes) <= 1
