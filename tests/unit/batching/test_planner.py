"""The plan of a global batch: every example once, balanced, within the budget."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modellink_rm.batching.batch import pack_examples
from modellink_rm.batching.planner import (
    computed_tokens,
    estimated_cost,
    plan_micro_batches,
    plan_replicas,
)
from modellink_rm.dataset.example import Example
from tests.tiny_data import random_example

LENGTHS = st.tuples(st.integers(0, 40), st.integers(1, 40), st.integers(1, 40))


def examples_of(lengths: list[tuple[int, int, int]]) -> list[Example]:
    return [random_example(index, *sizes) for index, sizes in enumerate(lengths)]


@given(st.lists(LENGTHS, min_size=1, max_size=30), st.integers(1, 8))
def test_replicas_get_every_example_once_and_each_gets_one(
    lengths: list[tuple[int, int, int]], num_replicas: int
) -> None:
    shares = plan_replicas(examples_of(lengths), num_replicas, share_prefixes=True)
    assert sorted(position for share in shares for position in share) == list(range(len(lengths)))
    if len(lengths) >= num_replicas:
        assert all(shares)


@given(st.lists(LENGTHS, min_size=1, max_size=30), st.integers(1, 200), st.booleans())
def test_micro_batches_hold_every_example_once_within_the_budget(
    lengths: list[tuple[int, int, int]], max_tokens: int, share_prefixes: bool
) -> None:
    examples = examples_of(lengths)
    positions = list(range(len(examples)))
    batches = plan_micro_batches(examples, positions, max_tokens, share_prefixes=share_prefixes)
    assert sorted(position for batch in batches for position in batch) == positions
    for batch in batches:
        tokens = sum(computed_tokens(examples[position], share_prefixes=share_prefixes) for position in batch)
        assert tokens <= max_tokens or len(batch) == 1


@given(st.lists(LENGTHS, min_size=1, max_size=30), st.integers(1, 200), st.integers(2, 5))
def test_number_of_micro_batches_is_a_multiple_with_empty_ones_last_and_only_where_examples_lack(
    lengths: list[tuple[int, int, int]], max_tokens: int, multiple_of: int
) -> None:
    examples = examples_of(lengths)
    positions = list(range(len(examples)))
    batches = plan_micro_batches(
        examples, positions, max_tokens, share_prefixes=True, multiple_of=multiple_of
    )
    assert len(batches) % multiple_of == 0
    filled = [batch for batch in batches if batch]
    assert batches[: len(filled)] == filled
    assert sorted(position for batch in filled for position in batch) == positions
    assert len(batches) - len(filled) < multiple_of
    assert len(filled) == len(batches) or len(filled) == len(examples)
    for batch in filled:
        tokens = sum(computed_tokens(examples[position], share_prefixes=True) for position in batch)
        assert tokens <= max_tokens or len(batch) == 1


def test_more_and_smaller_micro_batches_make_up_the_multiple() -> None:
    examples = examples_of([(0, 10, 10)] * 6)
    batches = plan_micro_batches(examples, range(6), 40, share_prefixes=True, multiple_of=4)
    assert sorted(map(len, batches)) == [1, 1, 2, 2]


def test_empty_micro_batches_make_up_the_multiple_where_examples_lack() -> None:
    examples = examples_of([(0, 10, 10)] * 3)
    batches = plan_micro_batches(examples, range(3), 1, share_prefixes=True, multiple_of=4)
    assert batches == [[0], [1], [2], []]
    assert plan_micro_batches(examples, [], 1, share_prefixes=True, multiple_of=4) == []


@given(st.lists(LENGTHS, min_size=1, max_size=10), st.booleans())
def test_planned_tokens_are_those_of_the_packed_batch(
    lengths: list[tuple[int, int, int]], share_prefixes: bool
) -> None:
    examples = examples_of(lengths)
    batch = pack_examples(examples, share_prefixes=share_prefixes)
    planned = sum(computed_tokens(one, share_prefixes=share_prefixes) for one in examples)
    same = sum(  # equal answers are laid out once, which the plan leaves aside
        len(one.responses[0].input_ids)
        for one in examples
        if np.array_equal(one.responses[0].input_ids, one.responses[1].input_ids)
    )
    assert batch.num_computed_tokens >= planned - same
    assert batch.num_computed_tokens <= planned


def test_long_examples_are_spread_over_replicas() -> None:
    examples = examples_of([(0, 100, 100), (0, 1, 1), (0, 1, 1), (0, 100, 100)])
    assert plan_replicas(examples, 2, share_prefixes=True) == [[0, 1], [2, 3]]


def test_micro_batches_are_of_about_equal_size() -> None:
    examples = examples_of([(0, 30, 30), (0, 10, 10), (0, 10, 10), (0, 20, 20)])
    batches = plan_micro_batches(examples, range(4), 80, share_prefixes=True)
    assert sorted(map(len, batches)) == [2, 2]


def test_cost_is_of_the_computed_tokens_and_half_of_all_pairs_of_tokens() -> None:
    example = random_example(0, 4, 2, 6)
    pairs = (6**2 + 10**2) / 2
    assert estimated_cost(example, share_prefixes=True) == 4 + 2 + 6 + pairs / 24_000
    assert estimated_cost(example, share_prefixes=False) == 6 + 10 + pairs / 24_000


def test_the_longest_example_is_placed_first() -> None:
    examples = examples_of([(0, 10, 10), (0, 10, 10), (0, 20, 20)])
    assert plan_replicas(examples, 2, share_prefixes=True) == [[2], [0, 1]]
    # Of 40, 40, 60 and 60 tokens: shortest first would take three micro-batches of up to 100.
    examples = examples_of([(0, 20, 20), (0, 20, 20), (0, 30, 30), (0, 30, 30)])
    assert plan_micro_batches(examples, range(4), 100, share_prefixes=True) == [[0, 2], [1, 3]]


def test_micro_batches_and_their_examples_are_in_the_order_of_the_batch() -> None:
    examples = examples_of([(0, 1, 1), (0, 5, 5), (0, 2, 2), (0, 6, 6), (0, 3, 3)])
    assert plan_micro_batches(examples, range(5), 14, share_prefixes=True) == [[0, 1], [2, 4], [3]]
    assert plan_micro_batches(examples, range(5), 1000, share_prefixes=True) == [[0, 1, 2, 3, 4]]


@pytest.mark.parametrize(("positions", "expected"), [([], []), ([2], [[2]])])
def test_few_examples(positions: list[int], expected: list[list[int]]) -> None:
    examples = examples_of([(1, 2, 3)] * 3)
    assert plan_micro_batches(examples, positions, 5, share_prefixes=True) == expected
