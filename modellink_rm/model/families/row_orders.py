"""The order of the rows of the engine's tensors, in terms of a family's stored ones.

The order in megatron-core 0.16.1 (transformer/attention.py, `get_query_key_value_tensors`, and
transformer/mlp.py): the rows of `linear_qkv` are, for each query group, its query heads, its key and its
value, and a tensor-parallel rank holds a contiguous part of them, even if that is less than a group;
`linear_fc1` holds a rank's part of the gate, then its part of the up projection; `linear_proj` and
`linear_fc2` are divided by columns.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal

from modellink_rm.base.ranges import cut_ranges, share_of
from modellink_rm.experts.shape import Experts
from modellink_rm.model.shape import ModelShape


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowOrder:
    """The rows of one of the engine's tensors, in terms of the stored tensors.

    Attributes:
        sizes: number of rows of each part that may be a separate stored tensor.
        columns: length of a row; None for a vector.
        order: ranges of the concatenated parts' rows, in the engine's order.
        divided: what tensor parallelism divides: all rows, the rows of each range, the columns, or nothing.
        is_padded: whether rows of zeros follow in the engine's tensor, as for the vocabulary.
        is_interleaved: the stored rows are of the gate and of the up projection in turn; in the engine's
            tensor those of the gate come first.
    """

    sizes: tuple[int, ...]
    columns: int | None
    order: tuple[tuple[int, int], ...]
    divided: Literal["rows", "each range", "columns", "nothing"] = "nothing"
    is_padded: bool = False
    is_interleaved: bool = False

    def ranges_of_rank(
        self, rank: int, num_ranks: int, *, num_rows: int | None = None
    ) -> list[tuple[int, int]]:
        """The ranges of the concatenated parts' rows that a rank holds, in its order.

        Args:
            num_rows: of the engine's whole tensor, where rows of zeros follow; by default there are none.
        """
        if self.divided == "each range":
            shares = [(start, share_of(stop - start, rank, num_ranks)) for start, stop in self.order]
            return [(start + low, start + high) for start, (low, high) in shares]
        if self.divided == "rows":
            start, stop = share_of(num_rows or sum(self.sizes), rank, num_ranks)
            return list(cut_ranges(self.order, start, stop))
        return list(self.order)


RowOrderOf = Callable[[ModelShape], RowOrder]


def vocabulary(shape: ModelShape) -> RowOrder:
    """A row for each token id, then padding."""
    rows = shape.vocab_size
    return RowOrder(
        sizes=(rows,), columns=shape.hidden_size, order=((0, rows),), divided="rows", is_padded=True
    )


def hidden_vector(shape: ModelShape) -> RowOrder:
    """A number for each hidden channel, whole on every rank: the weight of a norm."""
    return RowOrder(sizes=(shape.hidden_size,), columns=None, order=((0, shape.hidden_size),))


def head_vector(shape: ModelShape) -> RowOrder:
    """A number for each channel of a head, whole on every rank: the weight of a norm of queries or keys."""
    return RowOrder(sizes=(shape.kv_channels,), columns=None, order=((0, shape.kv_channels),))


def query_channels(shape: ModelShape) -> RowOrder:
    """A number for each channel of the query heads."""
    return _by_rows(shape.num_attention_heads * shape.kv_channels)


def query_heads(shape: ModelShape) -> RowOrder:
    """A number for each query head."""
    return _by_rows(shape.num_attention_heads)


def key_channels(shape: ModelShape) -> RowOrder:
    """A number for each channel of the key heads."""
    return _by_rows(shape.num_query_groups * shape.kv_channels)


def _by_rows(rows: int) -> RowOrder:
    return RowOrder(sizes=(rows,), columns=None, order=((0, rows),), divided="rows")


def query_key_value(shape: ModelShape) -> RowOrder:
    """All query heads, all keys, all values; in the engine ordered by group."""
    channels, groups = shape.kv_channels, shape.num_query_groups
    queries, keys = shape.num_attention_heads * channels, groups * channels
    of_group = shape.heads_per_group * channels
    order: list[tuple[int, int]] = []
    for group in range(groups):
        order.append((group * of_group, (group + 1) * of_group))
        for start in (queries, queries + keys):
            order.append((start + group * channels, start + (group + 1) * channels))
    return RowOrder(
        sizes=(queries, keys, keys), columns=shape.hidden_size, order=tuple(order), divided="rows"
    )


def query_key_value_by_group(shape: ModelShape) -> RowOrder:
    """For each group its query heads, its key and its value in one tensor: the engine's own order."""
    rows = (shape.num_attention_heads + 2 * shape.num_query_groups) * shape.kv_channels
    return RowOrder(sizes=(rows,), columns=shape.hidden_size, order=((0, rows),), divided="rows")


def attention_out(shape: ModelShape) -> RowOrder:
    """A column for each channel of the query heads."""
    return _by_columns(shape.hidden_size, shape.num_attention_heads * shape.kv_channels)


def gate_up(shape: ModelShape) -> RowOrder:
    """The gate, then the up projection."""
    return _gate_up(shape.hidden_size, shape.ffn_hidden_size)


def mlp_out(shape: ModelShape) -> RowOrder:
    """A column for each channel of the MLP's inner state."""
    return _by_columns(shape.hidden_size, shape.ffn_hidden_size)


def expert_gate_up(shape: ModelShape) -> RowOrder:
    """One expert's gate, then its up projection."""
    return _gate_up(shape.hidden_size, _experts(shape).ffn_hidden_size)


def expert_gate_up_interleaved(shape: ModelShape) -> RowOrder:
    """One expert's gate and up projection, a row of each in turn."""
    rows = 2 * _experts(shape).ffn_hidden_size
    return RowOrder(
        sizes=(rows,),
        columns=shape.hidden_size,
        order=((0, rows),),
        divided="rows",
        is_interleaved=True,
    )


def expert_out(shape: ModelShape) -> RowOrder:
    """A column for each channel of one expert's inner state."""
    return _by_columns(shape.hidden_size, _experts(shape).ffn_hidden_size)


def shared_gate_up(shape: ModelShape) -> RowOrder:
    """The shared expert's gate, then its up projection."""
    return _gate_up(shape.hidden_size, _experts(shape).shared_ffn_hidden_size)


def shared_out(shape: ModelShape) -> RowOrder:
    """A column for each channel of the shared expert's inner state."""
    return _by_columns(shape.hidden_size, _experts(shape).shared_ffn_hidden_size)


def router(shape: ModelShape) -> RowOrder:
    """A row for each expert, whole on every rank."""
    rows = _experts(shape).number
    return RowOrder(sizes=(rows,), columns=shape.hidden_size, order=((0, rows),))


def hidden_row(shape: ModelShape) -> RowOrder:
    """One row, whole on every rank."""
    return RowOrder(sizes=(1,), columns=shape.hidden_size, order=((0, 1),))


def _experts(shape: ModelShape) -> Experts:
    assert shape.experts is not None
    return shape.experts


def _gate_up(hidden_size: int, rows: int) -> RowOrder:
    order = ((0, rows), (rows, 2 * rows))
    return RowOrder(sizes=(rows, rows), columns=hidden_size, order=order, divided="each range")


def _by_columns(rows: int, columns: int) -> RowOrder:
    return RowOrder(sizes=(rows,), columns=columns, order=((0, rows),), divided="columns")
