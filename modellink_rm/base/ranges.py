"""Ranges (start, end) of rows or tokens."""

from collections.abc import Iterable, Iterator


def share_of(size: int, rank: int, num_ranks: int) -> tuple[int, int]:
    """A rank's contiguous part of `size` rows or columns."""
    assert size % num_ranks == 0, f"{size} is not divisible by {num_ranks}"
    return rank * size // num_ranks, (rank + 1) * size // num_ranks


def cut_ranges(ranges: Iterable[tuple[int, int]], start: int, stop: int) -> Iterator[tuple[int, int]]:
    """The part [start, stop) of the concatenated ranges, as ranges."""
    offset = 0
    for first, last in ranges:
        low, high = max(start - offset, 0), min(stop - offset, last - first)
        if low < high:
            yield first + low, first + high
        offset += last - first
