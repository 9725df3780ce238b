"""Packing: examples laid out one after the other, nothing padded but what is asked."""

import numpy as np
import pytest

from modellink_rm.data.batch import pack_examples
from modellink_rm.data.pair import Example, Response


def example(index: int, *lengths: int) -> Example:
    return Example(
        index,
        tuple(Response(np.arange(length, dtype=np.int32) + 100 * (index + 1), 1) for length in lengths),
    )


def test_examples_lie_one_after_the_other() -> None:
    batch = pack_examples([example(0, 2, 3), example(7, 1, 2)])
    assert batch.input_ids.tolist() == [100, 101, 100, 101, 102, 800, 800, 801]
    assert batch.position_ids.tolist() == [0, 1, 0, 1, 2, 0, 0, 1]
    assert batch.segment_ids.tolist() == [0, 0, 1, 1, 1, 2, 3, 3]
    assert batch.example_ids.tolist() == [0, 0, 0, 0, 0, 1, 1, 1]
    assert batch.segment_starts == (0, 2, 5, 6, 8)
    assert batch.scored_positions.tolist() == [1, 4, 5, 7]
    assert batch.example_indices == (0, 7)
    assert (batch.num_examples, batch.num_tokens, batch.num_padding) == (2, 8, 0)


@pytest.mark.parametrize(("divisible_by", "padding"), [(1, 0), (2, 1), (4, 3), (5, 0)])
def test_padding_is_a_segment_of_its_own_and_counted(divisible_by: int, padding: int) -> None:
    batch = pack_examples([example(0, 2, 3)], divisible_by=divisible_by)
    assert batch.num_padding == padding
    assert len(batch.input_ids) == 5 + padding
    assert batch.segment_starts == ((0, 2, 5, 5 + padding) if padding else (0, 2, 5))
    assert batch.scored_positions.tolist() == [1, 4]
    assert batch.num_tokens == 5
