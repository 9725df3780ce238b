"""The rows of a piece of a stored tensor, as the engine has them: read, and written back."""

from typing import Any

from torch import Tensor

from modellink_rm.checkpoint.hf.mappings import RowRange, TensorPlan


def read_piece(stored: Any, plan: TensorPlan, piece: RowRange) -> Tensor:
    """The rows of a piece in the engine's order, [rows, columns] or [rows], reading only its slice.

    Args:
        stored: the tensor, or safetensors' view of it that is sliced.
    """
    rows = _as_rows(stored[_index(plan, piece)], plan)
    return _turned(rows, (len(rows) // 2, 2)) if plan.is_interleaved else rows


def write_piece(stored: Tensor, plan: TensorPlan, piece: RowRange, rows: Tensor) -> None:
    """Put rows into the tensor that `read_piece` reads them from."""
    if plan.is_interleaved:
        rows = _turned(rows, (2, len(rows) // 2))
    _as_rows(stored[_index(plan, piece)], plan).copy_(rows)


def _index(plan: TensorPlan, piece: RowRange) -> tuple[slice, ...]:
    """The slice of the stored tensor that the piece is in."""
    rows = slice(piece.start, piece.stop)
    if plan.expert is None:
        return (rows,) if plan.columns is None else (rows, slice(*plan.columns))
    columns = () if len(plan.shape) == 1 else (slice(None) if plan.columns is None else slice(*plan.columns),)
    return slice(plan.expert, plan.expert + 1), *columns, rows


def _as_rows(part: Tensor, plan: TensorPlan) -> Tensor:
    """A slice as a view [rows, columns] or [rows]."""
    return part if plan.expert is None else part[0].movedim(-1, 0)


def _turned(rows: Tensor, table: tuple[int, int]) -> Tensor:
    """Rows that are numbered line by line in a table, in the order of its columns."""
    return rows.reshape(*table, *rows.shape[1:]).transpose(0, 1).flatten(0, 1)
