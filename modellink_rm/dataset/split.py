"""The split of a data set's rows into training, validation and test parts."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from modellink_rm.base.errors import UserError
from modellink_rm.config.data import split_fractions


@dataclass(frozen=True, kw_only=True)
class Split:
    """The rows of each part, in file order."""

    train: range
    valid: range
    test: range


def split_rows(num_rows: int, split: str, *, name: str) -> Split:
    """Divide the rows in file order by weights such as "969,30,1", as Megatron-LM does.

    Args:
        name: of the data set, for messages.

    Raises:
        UserError: no row is left to train on.
    """
    train, valid, test = split_fractions(split)
    first = round(train * num_rows)
    # Where nothing is left for tests, a row that rounding leaves over is one of validation.
    second = min(num_rows, first + round(valid * num_rows)) if test > 0 else num_rows
    if first == 0:
        raise UserError(f"--split {split} leaves none of the {num_rows} rows of {name} to train on")
    return Split(train=range(first), valid=range(first, second), test=range(second, num_rows))


def divide(items: Sequence[int], parts: int) -> list[Sequence[int]]:
    """Contiguous parts of sizes that differ by at most one, longer ones first."""
    size, rest = divmod(len(items), parts)
    starts = [number * size + min(number, rest) for number in range(parts + 1)]
    return [items[start:end] for start, end in itertools.pairwise(starts)]
