"""Ranges of a tensor's elements as boxes, which checkpoints consist of."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from modellink_rm.checkpoint.pieces import boxes


@st.composite
def ranges(draw: st.DrawFn) -> tuple[tuple[int, ...], int, int]:
    shape = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=4)))
    bounds = st.integers(0, torch.Size(shape).numel())
    start, stop = sorted((draw(bounds), draw(bounds)))
    return shape, start, stop


@given(ranges())
def test_boxes_hold_the_elements_of_a_range_in_their_order(given: tuple[tuple[int, ...], int, int]) -> None:
    shape, start, stop = given
    whole = torch.arange(torch.Size(shape).numel()).view(shape)
    found = []
    for offset, size in boxes(shape, start, stop):
        part = whole[tuple(slice(a, a + b) for a, b in zip(offset, size, strict=True))]
        assert tuple(part.shape) == size
        found += part.flatten().tolist()
    assert found == list(range(start, stop))


@pytest.mark.parametrize(
    ("start", "stop", "expected"),
    [
        (0, 30, [((0, 0), (3, 10))]),
        (4, 7, [((0, 4), (1, 3))]),
        (7, 13, [((0, 7), (1, 3)), ((1, 0), (1, 3))]),
        (7, 25, [((0, 7), (1, 3)), ((1, 0), (1, 10)), ((2, 0), (1, 5))]),
        (5, 5, []),
    ],
)
def test_a_range_of_a_matrix_is_three_boxes_at_most(
    start: int, stop: int, expected: list[tuple[tuple[int, ...], tuple[int, ...]]]
) -> None:
    assert boxes((3, 10), start, stop) == expected
