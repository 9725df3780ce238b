"""Items made ahead: their order, what fails and when, and the end."""

import threading
import time
from collections.abc import Iterator

import pytest

from modellink_rm.base.errors import UserError
from modellink_rm.batching.prefetch import prefetch


def num_threads() -> int:
    return sum(thread.name.startswith("global-batches") for thread in threading.enumerate())


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_items_come_in_order(num_workers: int) -> None:
    def make(number: int) -> int:
        time.sleep(0.002 * (number % 3))
        return number * number

    with prefetch(make, range(20), num_workers) as items:
        assert list(items) == [number * number for number in range(20)]
    assert num_threads() == 0


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_what_is_raised_comes_at_its_item_with_its_message(num_workers: int) -> None:
    def make(number: int) -> int:
        if number == 2:
            raise UserError("row 2 is damaged")
        return number

    with prefetch(make, range(5), num_workers) as items:
        assert [next(items), next(items)] == [0, 1]
        with pytest.raises(UserError, match="row 2 is damaged"):
            next(items)
    assert num_threads() == 0


def test_next_item_is_made_while_one_is_used() -> None:
    made = [threading.Event() for _ in range(4)]

    def make(number: int) -> int:
        made[number].set()
        return number

    with prefetch(make, range(4), 1) as items:
        assert next(items) == 0
        assert made[1].wait(10)
        assert not made[3].is_set()


def test_workers_prepare_as_many_items_ahead_as_there_are_workers() -> None:
    made = [threading.Event() for _ in range(6)]
    together = threading.Barrier(3, timeout=10)

    def make(number: int) -> int:
        made[number].set()
        if number < 3:
            together.wait()  # broken, which raises, unless three are made at a time
        return number

    with prefetch(make, range(6), 3) as items:
        assert next(items) == 0
        assert made[3].wait(10)
        assert not made[4].is_set()
        assert next(items) == 1
        assert made[4].wait(10)
        assert not made[5].is_set()


@pytest.mark.parametrize("num_workers", [0, 1])
def test_interrupted_use_ends_the_threads(num_workers: int) -> None:
    def use(items: Iterator[int]) -> None:
        next(items)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), prefetch(lambda number: number, range(10), num_workers) as items:
        use(items)
    assert num_threads() == 0


def test_nothing_to_make_is_no_item() -> None:
    with prefetch(lambda number: number, range(0), 2) as items:
        assert list(items) == []
