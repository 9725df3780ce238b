"""Pieces of attention say who sees whom, whatever part of the sequence a process holds."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modellink_rm.batching.batch import Batch, Segment, pack_examples
from modellink_rm.model.attention.pieces import (
    Piece,
    blocks_of,
    held_scores,
    pieces_of,
    scored_pieces,
    with_window,
)
from tests.tiny_data import random_example

# Of each example: tokens of the prompt, and of one to three answers.
LENGTHS = st.lists(
    st.tuples(st.integers(0, 9), st.lists(st.integers(1, 9), min_size=1, max_size=3)), min_size=1, max_size=5
)


def batch_of(lengths: list[tuple[int, list[int]]], *, divisible_by: int = 1, share: bool = True) -> Batch:
    examples = [random_example(index, prompt, *answers) for index, (prompt, answers) in enumerate(lengths)]
    return pack_examples(examples, divisible_by=divisible_by, share_prefixes=share)


def visible(segments: tuple[Segment, ...]) -> np.ndarray:
    """bool [t, t], by the definition of a segment."""
    total = segments[-1].end
    seen = np.zeros((total, total), dtype=bool)
    for segment in segments:
        for query in range(segment.start, segment.end):
            seen[query, segment.start : query + 1] = True
            if segment.prefix is not None:
                seen[query, slice(*segment.prefix)] = True
    return seen


def visible_by_pieces(pieces: tuple[Piece, ...], total: int) -> np.ndarray:
    """bool [queries, t], by the definition of a piece."""
    seen = np.zeros((pieces[-1].queries[1], total), dtype=bool)
    for piece in pieces:
        keys = np.concatenate([np.arange(start, end) for start, end in piece.keys])
        for number, query in enumerate(range(*piece.queries)):
            last = piece.num_keys - (piece.num_queries - 1 - number)
            seen[query, keys[max(0, last - (piece.window or last)) : last]] = True
    return seen


@given(LENGTHS, st.booleans())
def test_pieces_see_what_segments_see(lengths: list[tuple[int, list[int]]], share: bool) -> None:
    batch = batch_of(lengths, share=share)
    pieces = pieces_of(batch.segments, batch.ranges)
    np.testing.assert_array_equal(visible_by_pieces(pieces, batch.segments[-1].end), visible(batch.segments))


@given(LENGTHS, st.booleans(), st.integers(1, 12), st.integers(1, 5), st.sampled_from([1, 2]))
def test_a_window_hides_all_but_the_last_positions(
    lengths: list[tuple[int, list[int]]], share: bool, window: int, num_queries: int, size: int
) -> None:
    batch = batch_of(lengths, share=share, divisible_by=2 * size)
    positions = batch.position_ids.numpy()
    expected = visible(batch.segments) & (positions[:, None] - positions[None] < window)
    for rank in range(size):
        held = batch.share(rank=rank, size=size).ranges
        rows = np.concatenate([np.arange(start, end) for start, end in held])
        pieces = with_window(pieces_of(batch.segments, held), window)
        assert all(piece.window == window < piece.num_keys for piece in pieces if piece.window is not None)
        blocks = tuple(block for piece in pieces for block in blocks_of(piece, num_queries))
        assert all(block.num_queries <= num_queries for block in blocks)
        for cut in (pieces, blocks):
            np.testing.assert_array_equal(visible_by_pieces(cut, len(positions)), expected[rows])


@given(LENGTHS)
def test_a_window_that_reaches_all_tokens_changes_no_piece(lengths: list[tuple[int, list[int]]]) -> None:
    batch = batch_of(lengths)
    pieces = pieces_of(batch.segments, batch.ranges)
    assert with_window(pieces, int(batch.position_ids.max()) + 1) == pieces == with_window(pieces, None)


@given(LENGTHS, st.sampled_from([2, 3, 4]))
def test_parts_of_a_context_parallel_batch_make_up_the_whole(
    lengths: list[tuple[int, list[int]]], size: int
) -> None:
    batch = batch_of(lengths, divisible_by=2 * size)
    whole = visible(batch.segments)
    held: list[Any] = []
    for rank in range(size):
        part = batch.share(rank=rank, size=size)
        tokens = np.concatenate([np.arange(start, end) for start, end in part.ranges])
        np.testing.assert_array_equal(part.input_ids, batch.input_ids[tokens])
        np.testing.assert_array_equal(part.position_ids, batch.position_ids[tokens])
        np.testing.assert_array_equal(
            visible_by_pieces(pieces_of(part.segments, part.ranges), len(whole)), whole[tokens]
        )
        held.extend(tokens)
        scores = held_scores(part.scored_positions, part.ranges)
        assert list(tokens[list(scores.rows)]) == list(scores.positions)
        for position, slot, is_held in zip(part.scored_positions, scores.slots, scores.is_held, strict=True):
            assert is_held == (position in tokens)
            assert not is_held or scores.positions[slot] == position
    assert sorted(held) == list(range(len(whole)))


@given(LENGTHS)
def test_scored_pieces_see_what_their_tokens_see(lengths: list[tuple[int, list[int]]]) -> None:
    batch = batch_of(lengths)
    positions = list(dict.fromkeys(batch.scored_positions))
    pieces = scored_pieces(batch.segments, positions)
    whole = visible(batch.segments)
    np.testing.assert_array_equal(visible_by_pieces(pieces, len(whole)), whole[positions])


def test_a_prompt_and_the_response_after_it_are_one_piece() -> None:
    batch = batch_of([(3, [2, 4])])
    assert pieces_of(batch.segments, batch.ranges) == (
        Piece((0, 5), ((0, 5),)),
        Piece((5, 9), ((0, 3), (5, 9))),
    )


def test_a_process_without_a_scored_token_takes_its_first() -> None:
    held = held_scores((11,), ((2, 4), (6, 8)))
    assert (held.positions, held.rows, held.slots, held.is_held) == ((2,), (0,), (0,), (False,))


def test_equal_responses_are_one_row() -> None:
    held = held_scores((4, 7, 4), ((0, 8),))
    assert (held.rows, held.slots) == ((4, 7), (0, 1, 0))


def test_a_sequence_that_cannot_be_divided_is_refused() -> None:
    with pytest.raises(AssertionError, match="7 tokens cannot be divided into 4 slices"):
        batch_of([(3, [2, 2])]).share(rank=0, size=2)
