"""The linear modules of a layer, which tensor parallelism divides."""

from dataclasses import dataclass
from typing import Any

from modellink_rm.adapters.linears import ColumnLinear, RowLinear
from modellink_rm.model.layers.scored_rows import RowQueriesLinear


class BiasedRowLinear(RowLinear):
    """A linear divided by columns with a bias, which is whole on every rank; the others have none."""

    def __init__(self, *arguments: Any, bias: bool, **keywords: Any) -> None:
        super().__init__(*arguments, bias=True, **keywords)


@dataclass(frozen=True, kw_only=True)
class Linears:
    """The classes of a layer's linear modules; a replacement must keep the names of the weights.

    Attributes:
        column: divided by rows of the weight: projections to queries, keys and values, and to gate and up.
        row: divided by columns of the weight: output projections of attention and MLP.
        biased_row: `row` with a bias, where the shape's `attention_output_bias` says so.
        row_queries: projection to queries, keys and values in the layer of scored rows.
    """

    column: type[ColumnLinear] = ColumnLinear
    row: type[RowLinear] = RowLinear
    biased_row: type[RowLinear] = BiasedRowLinear
    row_queries: type[ColumnLinear] = RowQueriesLinear
