"""Rows as examples, the split of rows, and the order of samples."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from modellink_rm.base.errors import UserError
from modellink_rm.dataset.pair_dataset import (
    PairDataset,
    SampleOrder,
    divide,
    split_rows,
)
from tests.tiny_data import write_random_rows


def test_several_prefixes_are_read_one_after_the_other(tmp_path: Path) -> None:
    first = write_random_rows(tmp_path / "a", 3, seed=1)
    second = write_random_rows(tmp_path / "b", 4, seed=2)
    options = {"seq_length": 64, "truncation": "right", "num_closing_tokens": 1, "num_ids": 320}
    both = PairDataset([first, second], **options)
    alone = PairDataset([second], **options)
    assert len(both) == 7
    for row in range(4):
        for ours, theirs in zip(both[3 + row].responses, alone[row].responses, strict=True):
            assert np.array_equal(ours.input_ids, theirs.input_ids)
            assert ours.num_prompt_tokens == theirs.num_prompt_tokens
    assert both[5].index == 5
    with pytest.raises(IndexError):
        both[7]


def test_rows_above_the_sequence_length_are_truncated_and_counted(tmp_path: Path) -> None:
    prefix = write_random_rows(tmp_path / "a", 30)
    dataset = PairDataset([prefix], seq_length=16, truncation="right", num_closing_tokens=1, num_ids=320)
    whole = PairDataset([prefix], seq_length=1000, truncation="right", num_closing_tokens=1, num_ids=320)
    too_long = [max(len(side.input_ids) for side in whole[row].responses) > 16 for row in range(30)]
    assert dataset.num_too_long() == sum(too_long) > 0
    for row in range(30):
        assert dataset[row].is_truncated == too_long[row]
        assert all(len(side.input_ids) <= 16 for side in dataset[row].responses)


@pytest.mark.parametrize(
    ("split", "sizes"),
    [
        ("100,0,0", (100, 0, 0)),
        ("9798,200,0", (98, 2, 0)),
        ("969,30,1", (97, 3, 0)),
        ("80,10,10", (80, 10, 10)),
        ("1,1", (50, 50, 0)),
    ],
)
def test_split_divides_rows_in_file_order(split: str, sizes: tuple[int, int, int]) -> None:
    parts = split_rows(100, split)
    assert (len(parts.train), len(parts.valid), len(parts.test)) == sizes
    assert parts.train.start == 0
    assert parts.train.stop == parts.valid.start
    assert parts.valid.stop == parts.test.start


def test_split_without_training_rows_is_refused() -> None:
    with pytest.raises(UserError, match="none of the 10 rows"):
        split_rows(10, "0,1,0")


def test_unshuffled_samples_are_in_file_order_over_epochs() -> None:
    order = SampleOrder(range(3), shuffle=False, seed=1)
    assert list(order.samples(1, 8)) == [1, 2, 0, 1, 2, 0, 1]


def test_shuffled_epochs_are_permutations_that_depend_on_nothing_but_the_seed() -> None:
    rows = range(10, 60)
    order = SampleOrder(rows, shuffle=True, seed=1)
    epochs = [list(order.samples(50 * epoch, 50 * (epoch + 1))) for epoch in range(3)]
    assert all(sorted(epoch) == list(rows) for epoch in epochs)
    assert all(one != other for one, other in pairwise(epochs))
    assert (
        list(SampleOrder(rows, shuffle=True, seed=1).samples(30, 120))
        == (epochs[0] + epochs[1] + epochs[2])[30:120]
    )
    assert list(SampleOrder(rows, shuffle=True, seed=2).samples(0, 50)) != epochs[0]


@pytest.mark.parametrize(("items", "parts"), [(6, 4), (8, 2), (3, 5), (7, 3)])
def test_divide_gives_contiguous_parts_as_equal_as_can_be(items: int, parts: int) -> None:
    divided = divide(range(items), parts)
    assert [item for part in divided for item in part] == list(range(items))
    assert max(map(len, divided)) - min(map(len, divided)) <= 1
