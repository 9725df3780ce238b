"""Keys and values in the order of the pieces that see them, some in several copies."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modellink_rm.base.platform import tensor_on


class CopiedRows:
    """Rows of a sequence in another order, those of a shared prefix once for each piece that sees it.

    The gradients of a row's copies are added in the order of the copies: torch's own backward of indexing
    adds them in any order on a GPU, so that a run could not be repeated.
    """

    def __init__(self, index: np.ndarray, device: torch.device) -> None:
        """The rows `index`, int64 [n], of a sequence."""
        self._index = index
        self._device = device
        self._is_in_order = np.array_equal(index, np.arange(len(index)))

    def take(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [n, groups, head_dim] of those [t, groups, head_dim] of a sequence.

        Copies of their own also where nothing moves: a view would keep the projection to queries, keys and
        values in memory.
        """
        if self._is_in_order and len(key) == len(self._index):
            return key.contiguous(), value.contiguous()
        copies: tuple[Tensor, Tensor] = _Copied.apply(key, value, self)  # type: ignore[no-untyped-call]
        return copies

    @functools.cached_property
    def index(self) -> Tensor:
        """int64 [n], on the device."""
        return tensor_on(self._device, self._index)

    @functools.cached_property
    def copies(self) -> tuple[tuple[Tensor, Tensor], ...]:
        """Of every first copy of a row, then of every second one, ...: the row and the place of the copy."""
        places = np.argsort(self._index, kind="stable")
        rows = self._index[places]
        starts = np.flatnonzero(np.diff(rows, prepend=-1))
        number = np.arange(len(rows)) - np.repeat(starts, np.diff(starts, append=len(rows)))
        return tuple(
            (tensor_on(self._device, rows[number == n]), tensor_on(self._device, places[number == n]))
            for n in range(number.max() + 1)
        )

    def summed(self, gradient: Tensor, num_rows: int) -> Tensor:
        """The gradient [num_rows, ...] of the rows, of those [n, ...] of their copies."""
        (rows, places), *others = self.copies
        total = gradient.index_select(0, places)
        if len(rows) < num_rows:  # some are seen by no piece
            total = gradient.new_zeros(num_rows, *gradient.shape[1:]).index_copy_(0, rows, total)
        for rows, places in others:  # a row occurs once in each: nothing is added to it at the same time
            total.index_add_(0, rows, gradient.index_select(0, places))
        return total


class _Copied(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, key: Tensor, value: Tensor, rows: CopiedRows) -> tuple[Tensor, Tensor]:
        ctx.rows, ctx.num_rows = rows, len(key)
        return key.index_select(0, rows.index), value.index_select(0, rows.index)

    @staticmethod
    def backward(ctx: Any, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, None]:
        return ctx.rows.summed(key, ctx.num_rows), ctx.rows.summed(value, ctx.num_rows), None


def rows_of_ranges(ranges: Sequence[tuple[int, int]]) -> np.ndarray:
    """The rows of (start, end) ranges, int64, in their order."""
    return np.concatenate([np.arange(start, end) for start, end in ranges])
