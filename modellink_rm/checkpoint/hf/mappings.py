"""The engine's tensors as pieces of the stored tensors: pure data, used for reading and for writing."""

import dataclasses
from collections.abc import Iterator, Sequence

from modellink_rm.base.ranges import share_of
from modellink_rm.model.families.row_orders import RowOrder
from modellink_rm.model.families.tensors import StoredTensor, TensorTable
from modellink_rm.model.shape import ModelShape
from modellink_rm.model.spec import EXPERTS_INFIX, LAYER_PREFIX, ModelSpec


@dataclasses.dataclass(frozen=True)
class RowRange:
    """Rows [start, stop) of one of the weights' tensors."""

    name: str
    start: int
    stop: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class TensorPlan:
    """One rank's tensor of the engine: pieces stacked along dim 0, then rows of zeros.

    Rows are those of dim 0 of the stored tensors, but of the last dim where these hold all experts.

    Attributes:
        columns: [start, stop) to take from every piece; None for all columns.
        shape: of the rank's tensor, including padding.
        zero_rows: rows of zeros at the end, the padding of the vocabulary.
        is_divided: whether the ranks hold different parts, and not copies of one tensor.
        expert: the number of the expert whose matrix [columns, rows], or vector, is taken of those of all
            experts; None for a stored tensor [rows, columns] of its own.
        is_interleaved: the pieces' rows are of the gate and of the up projection in turn; in the engine's
            tensor those of the gate come first.
    """

    pieces: tuple[RowRange, ...]
    columns: tuple[int, int] | None
    shape: tuple[int, ...]
    zero_rows: int = 0
    is_divided: bool = True
    expert: int | None = None
    is_interleaved: bool = False


@dataclasses.dataclass(frozen=True)
class _Stored:
    """The stored tensors that make up one of the engine's: their names and rows, and the row order.

    Attributes:
        expert: of a tensor that holds those of all `num_experts`.
    """

    names: tuple[str, ...]
    rows: tuple[int, ...]
    row_order: RowOrder
    row_shape: tuple[int, ...]
    expert: int | None = None
    num_experts: int = 0

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        if self.expert is not None:
            (name,), (rows,) = self.names, self.rows
            return {name: (self.num_experts, *self.row_shape, rows)}
        return {name: (rows, *self.row_shape) for name, rows in zip(self.names, self.rows, strict=True)}


def engine_names(shape: ModelShape, table: TensorTable) -> list[str]:
    """Names of the engine's tensors without the head, layers numbered over the whole model."""
    ends = [f"{entry.engine}.{kind}" for entry in table.ends for kind in _kinds(entry, shape)]
    layers = [
        f"{LAYER_PREFIX}{layer}.{name}.{kind}"
        for layer in range(shape.num_layers)
        for entry in table.layer
        if entry.is_in(shape, layer)
        for name in _numbered(entry.engine, shape)
        for kind in _kinds(entry, shape)
    ]
    return [*ends, *layers]


def _numbered(name: str, shape: ModelShape) -> list[str]:
    """The name of each expert's tensor; of another tensor its own name."""
    if not is_of_expert(name):
        return [name]
    assert shape.experts is not None
    return [name.format(expert=number) for number in range(shape.experts.number)]


def is_of_expert(engine_name: str) -> bool:
    """Whether it is a tensor of one expert, which expert parallelism divides and not tensor parallelism."""
    return EXPERTS_INFIX in engine_name


def expert_number(engine_name: str) -> int:
    """The number of the expert, over the whole layer, that a tensor belongs to."""
    return int(engine_name.split(EXPERTS_INFIX)[1].split(".", 1)[0])


def expected_shapes(shape: ModelShape, table: TensorTable) -> dict[str, tuple[int, ...]]:
    """The shape of every stored tensor that the reward model uses, except the head."""
    shapes: dict[str, tuple[int, ...]] = {}
    for engine_name in engine_names(shape, table):
        shapes |= stored_shapes(engine_name, shape, table)
    return shapes


def stored_shapes(engine_name: str, shape: ModelShape, table: TensorTable) -> dict[str, tuple[int, ...]]:
    """The shapes, by name and in order, of the stored tensors that make up one of the engine's."""
    return _stored(engine_name, shape, table).shapes


def row_order_of(engine_name: str, shape: ModelShape, table: TensorTable) -> RowOrder:
    """The order of the rows of one of the engine's tensors."""
    return _stored(engine_name, shape, table).row_order


def tensor_plan(
    engine_name: str, spec: ModelSpec, table: TensorTable, *, tp_rank: int, tp_size: int
) -> TensorPlan:
    """How a tensor-parallel rank's tensor is assembled from stored tensors.

    Args:
        engine_name: with the layer numbered over the whole model, not over its pipeline stage, and the expert
            over the whole layer.
        tp_rank: of a tensor of an expert, the expert tensor-parallel rank.
        tp_size: likewise.
    """
    stored = _stored(engine_name, spec.shape, table)
    row_order, columns, row_shape, zero_rows = stored.row_order, None, stored.row_shape, 0
    padded_rows = spec.padded_vocab_size if row_order.is_padded else None
    ranges = row_order.ranges_of_rank(tp_rank, tp_size, num_rows=padded_rows)
    if row_order.divided == "columns":
        columns = share_of(row_shape[0], tp_rank, tp_size)
        row_shape = (columns[1] - columns[0],)
    if padded_rows is not None:
        start, stop = share_of(padded_rows, tp_rank, tp_size)
        zero_rows = stop - start - sum(last - first for first, last in ranges)
    pieces = tuple(_pieces(stored, ranges))
    num_rows = sum(piece.stop - piece.start for piece in pieces) + zero_rows
    return TensorPlan(
        pieces=pieces,
        columns=columns,
        shape=(num_rows, *row_shape),
        zero_rows=zero_rows,
        is_divided=row_order.divided != "nothing",
        expert=stored.expert,
        is_interleaved=row_order.is_interleaved,
    )


def _kinds(entry: StoredTensor, shape: ModelShape) -> tuple[str, ...]:
    has_bias = bool(entry.bias) and getattr(shape, entry.bias)
    return ("weight", "bias") if has_bias else ("weight",)


def _stored(engine_name: str, shape: ModelShape, table: TensorTable) -> _Stored:
    """The stored tensors that make up one of the engine's."""
    path, kind = engine_name.rsplit(".", 1)
    entries, layer, expert = table.ends, 0, 0
    if path.startswith(LAYER_PREFIX):
        number, path = path.removeprefix(LAYER_PREFIX).split(".", 1)
        entries, layer = table.layer, int(number)
    if is_of_expert(path):
        expert = expert_number(engine_name)
        path = path.replace(f"{EXPERTS_INFIX}{expert}.", f"{EXPERTS_INFIX}{{expert}}.")
    (entry,) = (entry for entry in entries if entry.engine == path and entry.is_in(shape, layer))
    row_order = entry.row_order(shape)
    if kind == "bias" and row_order.divided == "columns":
        row_order = dataclasses.replace(row_order, divided="nothing")  # it is added to the sum over the ranks
    names, ending = entry.names, kind
    if entry.is_bare:
        names, ending = tuple(f"{name}_bias" if kind == "bias" else name for name in names), ""
    return _Stored(
        names=tuple(table.name(name, layer=layer, expert=expert, kind=ending) for name in names),
        rows=row_order.sizes if len(entry.names) > 1 else (sum(row_order.sizes),),
        row_order=row_order,
        row_shape=() if row_order.columns is None or kind == "bias" else (row_order.columns,),
        expert=expert if entry.is_stacked else None,
        num_experts=shape.experts.number if shape.experts is not None else 0,
    )


def _pieces(stored: _Stored, ranges: Sequence[tuple[int, int]]) -> Iterator[RowRange]:
    """`ranges` of the stacked tensors, as ranges of each tensor."""
    for first, last in ranges:
        offset = 0
        for name, rows in zip(stored.names, stored.rows, strict=True):
            low, high = max(first - offset, 0), min(last - offset, rows)
            if low < high:
                yield RowRange(name, low, high)
            offset += rows
