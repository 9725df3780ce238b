"""The results of a set, and of two models on it, against numbers worked out by hand."""

import dataclasses
from math import exp, log, sqrt

import numpy as np
import pytest

from modellink_rm.evaluation.compare import compare_set
from modellink_rm.evaluation.pairs import EvaluatedPairs
from modellink_rm.evaluation.sets import RecordCounts, SetResult, set_result, swap_check
from tests.unit.evaluation.test_groups import pairs_of

SCORES = [(2.0, 1.0), (1.0, 1.0), (0.0, 3.0), (4.0, 2.0)]
SWAPPED = [(1.0, 2.0), (1.0, 1.0), (3.0, 0.5), (2.0, 4.0)]


def result_of(pairs: EvaluatedPairs) -> SetResult:
    records = RecordCounts(total=len(pairs), truncated=0)
    return set_result("held-out", "pairs.json", pairs, records, swap_check(SCORES, SWAPPED), seed=0)


def test_the_numbers_of_a_set_are_those_by_hand() -> None:
    chosen, rejected = ([pair[side] for pair in SCORES] for side in (0, 1))
    found = result_of(pairs_of(chosen, rejected, lengths=[(3, 2), (2, 3), (5, 5), (9, 1)]))
    assert (found.num_pairs, found.ties) == (4, 1)
    assert found.accuracy.value == (1 + 0.5 + 0 + 1) / 4
    assert found.longer_accuracy == (1 + 0 + 0.5 + 1) / 4
    assert found.margin == (1 + 0 - 3 + 2) / 4
    assert (found.chosen_score, found.rejected_score) == (7 / 4, 7 / 4)
    # Mean squares less squared means, of the population.
    assert found.chosen_std == pytest.approx(sqrt(21 / 4 - 49 / 16))
    assert found.rejected_std == pytest.approx(sqrt(15 / 4 - 49 / 16))
    losses = [log(1 + exp(rejected - chosen)) for chosen, rejected in SCORES]
    assert found.loss.value == pytest.approx(sum(losses) / 4)
    # Of the 16 pairs of a chosen and a rejected response, wins and ties of 2, 1, 0 and 4 over 1, 1, 3 and 2.
    assert found.auc == (2.5 + 1 + 0 + 4) / 16


def test_a_swap_check_counts_the_first_of_an_exchanged_pair_as_chosen() -> None:
    found = swap_check(SCORES, SWAPPED)
    assert (found.num_pairs, found.accuracy) == (4, 2.5 / 4)
    assert found.swapped_accuracy == (0 + 0.5 + 1 + 0) / 4
    assert found.largest_difference == 0.5  # of the third pair's chosen response


def test_two_models_are_compared_on_the_records_that_both_scored() -> None:
    first = pairs_of([2.0, 0.0, 1.0], [1.0, 1.0, 0.0])
    first = dataclasses.replace(first, numbers=np.array([1, 4, 7]))
    second = pairs_of([0.0, 0.0, 5.0, 0.0], [1.0, 1.0, 6.0, 3.0])
    second = dataclasses.replace(second, numbers=np.array([0, 4, 7, 9]))
    found = compare_set("held-out", first, second, seed=0)
    assert found is not None
    assert (found.name, found.num_items) == ("held-out", 2)
    assert (found.difference.num_better, found.difference.num_worse) == (1, 0)
    assert found.difference.difference.value == 0.5


def test_two_models_without_a_record_in_common_are_not_compared() -> None:
    first = pairs_of([1.0], [0.0])
    second = dataclasses.replace(first, numbers=np.array([5]))
    assert compare_set("held-out", first, second, seed=0) is None
