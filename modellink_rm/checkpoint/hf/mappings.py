"""The engine's tensors as pieces of the weights' tensors: pure data, read in one direction or the other.

Layouts of megatron-core 0.16.1 (transformer/attention.py, `get_query_key_value_tensors`, and
transformer/mlp.py): the rows of `linear_qkv` are, for each query group, its query heads, its key and
its value, and a tensor-parallel rank holds a contiguous part of them, also where it holds a part of
one group only; `linear_fc1` holds a rank's part of the gate, then its part of the up projection;
`linear_proj` and `linear_fc2` are divided by columns.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

from modellink_rm.model.families import TensorNames
from modellink_rm.model.shape import ModelShape

EMBEDDING = "embedding.word_embeddings.weight"
FINAL_LAYERNORM = "decoder.final_layernorm.weight"
_LAYER_PREFIX = "decoder.layers."


@dataclasses.dataclass(frozen=True)
class RowRange:
    """Rows [start, stop) along dim 0 of one of the weights' tensors."""

    name: str
    start: int
    stop: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class TensorPlan:
    """One rank's tensor of the engine: pieces stacked along dim 0, then rows of zeros.

    Attributes:
        columns: [start, stop) of dim 1 that is taken of every piece, or None for all of it.
        shape: of the rank's tensor, padding included.
        zero_rows: rows at the end that the weights do not have (padding of the vocabulary).
    """

    pieces: tuple[RowRange, ...]
    columns: tuple[int, int] | None
    shape: tuple[int, ...]
    zero_rows: int = 0


@dataclasses.dataclass(frozen=True)
class _Source:
    """One of the weights' tensors with its number of rows."""

    name: str
    rows: int


def engine_names(shape: ModelShape) -> list[str]:
    """Names of the engine's tensors without the head, layers numbered over the whole model."""
    parts = [
        "input_layernorm.weight",
        "self_attention.linear_qkv.weight",
        *(["self_attention.linear_qkv.bias"] if shape.add_qkv_bias else []),
        "self_attention.linear_proj.weight",
        "pre_mlp_layernorm.weight",
        "mlp.linear_fc1.weight",
        "mlp.linear_fc2.weight",
    ]
    layers = [f"{_LAYER_PREFIX}{layer}.{part}" for layer in range(shape.num_layers) for part in parts]
    return [EMBEDDING, *layers, FINAL_LAYERNORM]


def expected_shapes(shape: ModelShape, names: TensorNames) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of the weights that the reward model takes, the head apart."""
    shapes: dict[str, tuple[int, ...]] = {}
    for engine_name in engine_names(shape):
        sources, row_shape = _sources(engine_name, shape, names)
        shapes |= {source.name: (source.rows, *row_shape) for source in sources}
    return shapes


def tensor_plan(
    engine_name: str,
    shape: ModelShape,
    family_names: TensorNames,
    *,
    padded_vocab_size: int,
    tp_rank: int,
    tp_size: int,
) -> TensorPlan:
    """How a tensor-parallel rank's tensor is put together from the weights' tensors.

    Args:
        engine_name: with the layer numbered over the whole model, not over its pipeline stage.
        padded_vocab_size: rows of the embedding over all ranks.
    """
    sources, row_shape = _sources(engine_name, shape, family_names)
    part = _part_of(engine_name)
    if part == EMBEDDING:
        start, stop = _share(padded_vocab_size, tp_rank, tp_size)
        held = (min(start, shape.vocab_size), min(stop, shape.vocab_size))
        ranges, columns, zero_rows = [held], None, stop - start - (held[1] - held[0])
    elif part in ("self_attention.linear_qkv.weight", "self_attention.linear_qkv.bias"):
        start, stop = _share(shape.qkv_size, tp_rank, tp_size)
        ranges, columns, zero_rows = list(_cut(_qkv_ranges(shape), start, stop)), None, 0
    elif part == "mlp.linear_fc1.weight":
        start, stop = _share(shape.ffn_hidden_size, tp_rank, tp_size)
        up = shape.ffn_hidden_size
        ranges, columns, zero_rows = [(start, stop), (up + start, up + stop)], None, 0
    elif part in ("self_attention.linear_proj.weight", "mlp.linear_fc2.weight"):
        ranges, zero_rows = [(0, shape.hidden_size)], 0
        columns = _share(row_shape[0], tp_rank, tp_size)
        row_shape = (columns[1] - columns[0],)
    else:
        ranges, columns, zero_rows = [(0, shape.hidden_size)], None, 0
    pieces = tuple(_pieces(sources, ranges))
    num_rows = sum(piece.stop - piece.start for piece in pieces) + zero_rows
    return TensorPlan(pieces=pieces, columns=columns, shape=(num_rows, *row_shape), zero_rows=zero_rows)


def _part_of(engine_name: str) -> str:
    """The name without its layer: "mlp.linear_fc1.weight"."""
    if not engine_name.startswith(_LAYER_PREFIX):
        return engine_name
    return engine_name.removeprefix(_LAYER_PREFIX).split(".", 1)[1]


def _sources(
    engine_name: str, shape: ModelShape, names: TensorNames
) -> tuple[list[_Source], tuple[int, ...]]:
    """The weights' tensors that one of the engine's is made of, and the shape of one row of theirs."""
    hidden = shape.hidden_size
    part = _part_of(engine_name)
    query_rows = shape.num_attention_heads * shape.kv_channels
    key_rows = shape.num_query_groups * shape.kv_channels
    qkv_rows = (query_rows, key_rows, key_rows)
    tables: dict[str, tuple[tuple[str, ...], tuple[int, ...], tuple[int, ...]]] = {
        EMBEDDING: ((names.embedding,), (shape.vocab_size,), (hidden,)),
        FINAL_LAYERNORM: ((names.final_layernorm,), (hidden,), ()),
        "input_layernorm.weight": ((names.input_layernorm,), (hidden,), ()),
        "self_attention.linear_qkv.weight": (names.qkv, qkv_rows, (hidden,)),
        "self_attention.linear_qkv.bias": (names.qkv, qkv_rows, ()),
        "self_attention.linear_proj.weight": ((names.attention_out,), (hidden,), (query_rows,)),
        "pre_mlp_layernorm.weight": ((names.pre_mlp_layernorm,), (hidden,), ()),
        "mlp.linear_fc1.weight": (names.gate_up, (shape.ffn_hidden_size,) * 2, (hidden,)),
        "mlp.linear_fc2.weight": ((names.mlp_out,), (hidden,), (shape.ffn_hidden_size,)),
    }
    templates, rows, row_shape = tables[part]
    if len(templates) == 1:
        rows = (sum(rows),)
    layer = int(engine_name.split(".")[2]) if engine_name.startswith(_LAYER_PREFIX) else 0
    kind = engine_name.rsplit(".", 1)[1]
    sources = [
        _Source(names.name(template, layer=layer, kind=kind), count)
        for template, count in zip(templates, rows, strict=True)
    ]
    return sources, row_shape


def _share(size: int, tp_rank: int, tp_size: int) -> tuple[int, int]:
    """A rank's contiguous part of `size` rows or columns."""
    assert size % tp_size == 0, f"{size} is not divisible by tensor parallel {tp_size}"
    return tp_rank * size // tp_size, (tp_rank + 1) * size // tp_size


def _qkv_ranges(shape: ModelShape) -> Iterator[tuple[int, int]]:
    """The engine's order of rows, as ranges of [all query heads; all keys; all values]."""
    query_rows = shape.heads_per_group * shape.kv_channels
    keys = shape.num_attention_heads * shape.kv_channels
    values = keys + shape.num_query_groups * shape.kv_channels
    for group in range(shape.num_query_groups):
        yield group * query_rows, (group + 1) * query_rows
        yield keys + group * shape.kv_channels, keys + (group + 1) * shape.kv_channels
        yield values + group * shape.kv_channels, values + (group + 1) * shape.kv_channels


def _cut(ranges: Iterable[tuple[int, int]], start: int, stop: int) -> Iterator[tuple[int, int]]:
    """What lies in [start, stop) of the rows that `ranges` give one after the other."""
    offset = 0
    for first, last in ranges:
        low, high = max(start - offset, 0), min(stop - offset, last - first)
        if low < high:
            yield first + low, first + high
        offset += last - first


def _pieces(sources: Sequence[_Source], ranges: Iterable[tuple[int, int]]) -> Iterator[RowRange]:
    """`ranges` of the stacked sources, as ranges of each source."""
    for first, last in ranges:
        offset = 0
        for source in sources:
            low, high = max(first - offset, 0), min(last - offset, source.rows)
            if low < high:
                yield RowRange(source.name, low, high)
            offset += source.rows
