"""The tensors of tensor-parallel ranks as one, of which slices are read as of a safetensors file."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from modellink_rm.base.ranges import cut_ranges
from modellink_rm.model.families.row_orders import RowOrder

_TYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
}


class MergedTensor:
    """A tensor [rows, columns] or [rows] whose parts ranks hold.

    Args:
        parts: of the ranks, of one shape.
        order: how tensor parallelism divides it.
        num_rows: of the whole, without the vocabulary's padding; None for all rows.
    """

    def __init__(self, parts: Sequence[Tensor], order: RowOrder, *, num_rows: int | None = None) -> None:
        self._parts = parts if order.divided != "nothing" else parts[:1]
        self._by_columns = order.divided == "columns"
        self._rows = tuple(_row_ranges(self._parts, order))
        total = sum(stop - start for start, stop in self._rows)
        self._num_rows = total if num_rows is None else min(total, num_rows)

    def get_shape(self) -> list[int]:
        """Rows, and columns of a matrix."""
        first = self._parts[0]
        columns = [sum(part.shape[1] for part in self._parts)] if self._by_columns else first.shape[1:]
        return [self._num_rows, *columns]

    def get_dtype(self) -> str:
        """As safetensors names it."""
        dtype = self._parts[0].dtype
        return _TYPE_NAMES.get(dtype, str(dtype))

    def __getitem__(self, index: tuple[slice, ...]) -> Tensor:
        """Rows, or rows and columns, between given ends."""
        rows, *columns = index
        if self._by_columns:
            width = self._parts[0].shape[1]
            start, stop = (columns[0].start, columns[0].stop) if columns else (0, self.get_shape()[1])
            pieces = [self._parts[rank][rows, low:high] for rank, low, high in _by_part(start, stop, width)]
            return torch.cat(pieces, dim=1) if len(pieces) > 1 else pieces[0]
        height = self._parts[0].shape[0]
        pieces = [
            self._parts[rank][(slice(low, high), *columns)]
            for start, stop in cut_ranges(self._rows, rows.start, min(rows.stop, self._num_rows))
            for rank, low, high in _by_part(start, stop, height)
        ]
        return torch.cat(pieces) if len(pieces) > 1 else pieces[0]


class MergedFile:
    """Merged tensors by name, as an open safetensors file has them."""

    def __init__(self, tensors: Mapping[str, MergedTensor]) -> None:
        self._tensors = tensors

    def keys(self) -> list[str]:
        """The names."""
        return list(self._tensors)

    def get_slice(self, name: str) -> MergedTensor:
        """A tensor to read slices of."""
        return self._tensors[name]

    def get_tensor(self, name: str) -> Tensor:
        """A whole tensor."""
        tensor = self._tensors[name]
        return tensor[tuple(slice(0, size) for size in tensor.get_shape())]


def _row_ranges(parts: Sequence[Tensor], order: RowOrder) -> Iterator[tuple[int, int]]:
    """The rows of the whole, as ranges of the parts stacked along their rows."""
    height = parts[0].shape[0]
    if order.divided == "columns":
        yield 0, height
    elif order.divided != "each range" or height * len(parts) != sum(order.sizes):
        yield 0, height * len(parts)
    else:
        for start, stop in order.order:
            for rank in range(len(parts)):
                offset = rank * height
                yield offset + start // len(parts), offset + stop // len(parts)


def _by_part(first: int, last: int, size: int) -> Iterator[tuple[int, int, int]]:
    """A range of stacked parts of `size` as (part, start, stop) of each part that it meets."""
    while first < last:
        part = first // size
        stop = min(last, (part + 1) * size)
        yield part, first - part * size, stop - part * size
        first = stop
