"""Packing: examples laid out one after the other, nothing padded but what is asked."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from modellink_rm.batching.batch import Segment, pack_examples
from modellink_rm.dataset.example import Example, Response


def example(index: int, prompt: int, *answers: int) -> Example:
    """Ids 100 * (index + 1) on for the prompt, 10, 20, ... more for each answer."""
    first = 100 * (index + 1)
    responses = [
        np.concatenate([np.arange(prompt) + first, np.arange(length) + first + 10 * (number + 1)])
        for number, length in enumerate(answers)
    ]
    return Example(index, tuple(Response(ids.astype(np.int32), prompt) for ids in responses))


def test_prompt_of_an_example_is_stored_once_before_its_responses() -> None:
    batch = pack_examples([example(0, 2, 3, 1), example(7, 1, 1, 2)])
    assert batch.input_ids.tolist() == [100, 101, 110, 111, 112, 120, 800, 810, 820, 821]
    assert batch.position_ids.tolist() == [0, 1, 2, 3, 4, 2, 0, 1, 1, 2]
    assert batch.segments == (
        Segment(0, 2),
        Segment(2, 5, (0, 2)),
        Segment(5, 6, (0, 2)),
        Segment(6, 7),
        Segment(7, 8, (6, 7)),
        Segment(8, 10, (6, 7)),
    )
    assert batch.scored_positions == (4, 5, 7, 9)
    assert batch.names == (("", 0), ("", 7))
    assert (batch.num_examples, batch.num_tokens, batch.num_computed_tokens) == (2, 13, 10)


def test_prompts_lie_apart_where_sharing_is_off() -> None:
    batch = pack_examples([example(0, 2, 1, 2)], share_prefixes=False)
    assert batch.input_ids.tolist() == [100, 101, 110, 100, 101, 120, 121]
    assert batch.position_ids.tolist() == [0, 1, 2, 0, 1, 2, 3]
    assert batch.segments == (Segment(0, 3), Segment(3, 7))
    assert batch.scored_positions == (2, 6)
    assert batch.num_tokens == batch.num_computed_tokens == 7


@pytest.mark.parametrize("other", [[5, 6], [5, 7, 7]])
def test_responses_with_different_prompts_lie_apart(other: list[int]) -> None:
    sides = (
        Response(np.array([5, 7, 1, 2], dtype=np.int32), 2),
        Response(np.array([*other, 3], np.int32), len(other)),
    )
    batch = pack_examples([Example(0, sides)])
    assert batch.segments == (Segment(0, 4), Segment(4, 5 + len(other)))


def test_empty_prompt_has_no_segment() -> None:
    batch = pack_examples([example(0, 0, 2, 3)])
    assert batch.segments == (Segment(0, 2), Segment(2, 5))
    assert batch.scored_positions == (1, 4)


def test_response_without_a_token_is_scored_at_the_end_of_its_prompt() -> None:
    batch = pack_examples([example(0, 3, 0, 2)])
    assert batch.segments == (Segment(0, 3), Segment(3, 5, (0, 3)))
    assert batch.scored_positions == (2, 4)


@pytest.mark.parametrize("num_responses", [1, 2, 5])
def test_examples_may_have_any_number_of_responses(num_responses: int) -> None:
    batch = pack_examples([example(0, 4, *range(1, num_responses + 1))])
    assert len(batch.scored_positions) == num_responses
    assert len(batch.segments) == 1 + num_responses


@pytest.mark.parametrize(("divisible_by", "padding"), [(1, 0), (2, 1), (4, 1), (5, 3), (7, 0)])
def test_padding_is_a_segment_of_its_own_and_counted(divisible_by: int, padding: int) -> None:
    batch = pack_examples([example(0, 2, 3, 2)], divisible_by=divisible_by)
    assert batch.num_padding == padding
    assert len(batch.input_ids) == 7 + padding
    assert batch.segments[3:] == ((Segment(7, 7 + padding),) if padding else ())
    assert batch.scored_positions == (4, 6)
    assert (batch.num_tokens, batch.num_computed_tokens) == (9, 7)


@pytest.mark.parametrize("divisible_by", [1, 4])
def test_batch_of_no_example_is_padding_that_nothing_is_scored_in(divisible_by: int) -> None:
    batch = pack_examples([], divisible_by=divisible_by)
    assert batch.segments == (Segment(0, divisible_by),)
    assert (batch.num_examples, batch.num_tokens, batch.num_computed_tokens) == (0, 0, 0)
    assert batch.num_padding == len(batch.input_ids) == divisible_by
    assert batch.scored_positions == ()


@pytest.mark.parametrize("share_prefixes", [True, False])
def test_equal_responses_are_stored_once_and_scored_at_one_position(share_prefixes: bool) -> None:
    same = Response(np.array([5, 7, 1, 2], dtype=np.int32), 2)
    other = Response(np.array([5, 7, 3], dtype=np.int32), 2)
    batch = pack_examples([Example(0, (same, other, same))], share_prefixes=share_prefixes)
    first, _, third = batch.scored_positions
    assert first == third
    assert len(batch.segments) == (3 if share_prefixes else 2)
    assert batch.num_tokens == 11


def test_prefix_length_counts_the_tokens_before_a_segment_that_it_sees() -> None:
    assert [segment.prefix_length for segment in (Segment(0, 5), Segment(9, 12, (5, 9)))] == [0, 4]


def test_context_parallel_ranks_hold_a_slice_of_each_half() -> None:
    batch = pack_examples([example(0, 2, 3, 1), example(7, 1, 1)])
    parts = [batch.share(rank=rank, size=2) for rank in range(2)]
    assert [part.ranges for part in parts] == [((0, 2), (6, 8)), ((2, 4), (4, 6))]
    assert [part.input_ids.tolist() for part in parts] == [[100, 101, 800, 810], [110, 111, 112, 120]]
    assert [part.position_ids.tolist() for part in parts] == [[0, 1, 0, 1], [2, 3, 4, 2]]
    assert parts[0].segments == parts[1].segments == batch.segments
    assert parts[0].scored_positions == batch.scored_positions
    assert batch.share(rank=0, size=1) is batch


def test_batch_on_another_device_has_all_its_tensors_there() -> None:
    batch = pack_examples([example(0, 2, 3, 1)])
    moved = batch.to(torch.device("meta"))
    tensors = (moved.input_ids, moved.position_ids)
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert (moved.segments, moved.scored_positions) == (batch.segments, batch.scored_positions)


def stepwise(
    index: int, prompt: int, answer: int, ends: tuple[int, ...], labels: tuple[float, ...]
) -> Example:
    """One response, whose steps end at these indices among its own tokens."""
    (response,) = example(index, prompt, answer).responses
    scored = dataclasses.replace(response, step_ends=tuple(prompt + end for end in ends), step_labels=labels)
    return Example(index, (scored,))


@pytest.mark.parametrize("share_prefixes", [True, False])
def test_steps_are_scored_where_they_end(share_prefixes: bool) -> None:
    examples = [stepwise(0, 2, 4, (1, 3), (1.0, 0.25)), stepwise(1, 1, 2, (0,), (math.nan,))]
    batch = pack_examples(examples, share_prefixes=share_prefixes, step_weight=1.5)
    assert [batch.input_ids[position].item() for position in batch.scored_positions] == [111, 113, 210]
    assert batch.targets.examples.tolist() == [0, 0, 1]
    assert batch.targets.step_labels.tolist() == pytest.approx([1.0, 0.25, math.nan], nan_ok=True)
    assert batch.targets.num_responses == (1, 1)
    assert batch.targets.step_weight == 1.5


def test_step_that_ends_in_a_shared_beginning_is_scored_there() -> None:
    shared = [dataclasses.replace(response, step_ends=(1, 3)) for response in example(0, 3, 2, 2).responses]
    batch = pack_examples([Example(0, tuple(shared))])
    assert [batch.input_ids[position].item() for position in batch.scored_positions] == [101, 110, 101, 120]


def test_response_without_a_step_left_has_no_score() -> None:
    batch = pack_examples([stepwise(0, 2, 3, (), ()), stepwise(1, 1, 2, (1,), (1.0,))])
    assert [batch.input_ids[position].item() for position in batch.scored_positions] == [211]
    assert batch.targets.examples.tolist() == [1]
