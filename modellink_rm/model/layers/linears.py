"""The linears of a layer, which tensor parallelism divides."""

from dataclasses import dataclass

from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear

from modellink_rm.model.layers.scored_rows import RowQueriesLinear


@dataclass(frozen=True, kw_only=True)
class Linears:
    """Which modules a layer's linears are; what replaces them keeps the names of their weights.

    Attributes:
        column: divided by rows of the weight: to queries, keys and values, and to gate and up.
        row: divided by columns of the weight: attention's and the MLP's output.
        row_queries: `column` to queries, keys and values in the layer of scored rows.
    """

    column: type[ColumnParallelLinear] = ColumnParallelLinear
    row: type[RowParallelLinear] = RowParallelLinear
    row_queries: type[ColumnParallelLinear] = RowQueriesLinear
