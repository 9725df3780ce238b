"""The parts of a data set's rows."""

import pytest

from modellink_rm.base.errors import UserError
from modellink_rm.dataset.split import divide, split_rows


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
    parts = split_rows(100, split, name="x")
    assert (len(parts.train), len(parts.valid), len(parts.test)) == sizes
    assert parts.train.start == 0
    assert parts.train.stop == parts.valid.start
    assert parts.valid.stop == parts.test.start


@pytest.mark.parametrize(
    ("split", "num_rows", "sizes"),
    [
        # Halves of both parts are rounded up: 2 + 2 of 3 rows.
        ("1,1,0", 3, (2, 1, 0)),
        ("1,1", 7, (4, 3, 0)),
        ("1,0,0", 1, (1, 0, 0)),
        # Halves of both parts are rounded down: 2 + 2 of 5 rows, 22 + 2 of 25.
        ("1,1", 5, (2, 3, 0)),
        ("90,10,0", 25, (22, 3, 0)),
        ("969,30,1", 30, (29, 1, 0)),  # of 0.9 rows for validation
        ("2,1,1", 6, (3, 2, 1)),
    ],
)
def test_rounded_parts_never_reach_past_the_last_row(
    split: str, num_rows: int, sizes: tuple[int, int, int]
) -> None:
    parts = split_rows(num_rows, split, name="x")
    assert (len(parts.train), len(parts.valid), len(parts.test)) == sizes
    rows = [*parts.train, *parts.valid, *parts.test]
    assert rows == list(range(num_rows))


def test_split_without_training_rows_is_refused() -> None:
    with pytest.raises(UserError, match="none of the 10 rows of x"):
        split_rows(10, "0,1,0", name="x")


@pytest.mark.parametrize(("items", "parts"), [(6, 4), (8, 2), (3, 5), (7, 3)])
def test_divide_gives_contiguous_parts_as_equal_as_can_be(items: int, parts: int) -> None:
    divided = divide(range(items), parts)
    assert [item for part in divided for item in part] == list(range(items))
    assert max(map(len, divided)) - min(map(len, divided)) <= 1
