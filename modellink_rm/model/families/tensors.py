"""How a family stores the engine's tensors: their names, and the order of their rows.

Layouts of megatron-core 0.16.1 (transformer/attention.py, `get_query_key_value_tensors`, and
transformer/mlp.py): the rows of `linear_qkv` are, for each query group, its query heads, its key and
its value, and a tensor-parallel rank holds a contiguous part of them, also where it holds a part of
one group only; `linear_fc1` holds a rank's part of the gate, then its part of the up projection;
`linear_proj` and `linear_fc2` are divided by columns.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal

from modellink_rm.model.shape import ModelShape

EMBEDDING = "embedding.word_embeddings"
FINAL_LAYERNORM = "decoder.final_layernorm"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """One of the engine's tensors, as rows of the stored ones.

    Attributes:
        sizes: rows of each part that may be a stored tensor of its own.
        columns: length of a row; None for a vector.
        order: ranges of the parts' rows, one part after the other, in the engine's order.
        divided: what tensor parallelism divides: a contiguous share of all rows, or of each range, or
            the columns, or nothing.
        is_padded: whether the engine's tensor goes on with rows of zeros, as the vocabulary's does.
    """

    sizes: tuple[int, ...]
    columns: int | None
    order: tuple[tuple[int, int], ...]
    divided: Literal["rows", "each range", "columns", "nothing"] = "nothing"
    is_padded: bool = False


LayoutOf = Callable[[ModelShape], Layout]


def vocabulary(shape: ModelShape) -> Layout:
    """A row for each token id, and padding."""
    rows = shape.vocab_size
    return Layout(
        sizes=(rows,), columns=shape.hidden_size, order=((0, rows),), divided="rows", is_padded=True
    )


def hidden_vector(shape: ModelShape) -> Layout:
    """A number for each hidden channel, whole on every rank: the weight of a norm."""
    return Layout(sizes=(shape.hidden_size,), columns=None, order=((0, shape.hidden_size),))


def query_key_value(shape: ModelShape) -> Layout:
    """All query heads, all keys, all values: by group in the engine."""
    channels, groups = shape.kv_channels, shape.num_query_groups
    queries, keys = shape.num_attention_heads * channels, groups * channels
    of_group = shape.heads_per_group * channels
    order: list[tuple[int, int]] = []
    for group in range(groups):
        order.append((group * of_group, (group + 1) * of_group))
        for start in (queries, queries + keys):
            order.append((start + group * channels, start + (group + 1) * channels))
    return Layout(sizes=(queries, keys, keys), columns=shape.hidden_size, order=tuple(order), divided="rows")


def attention_out(shape: ModelShape) -> Layout:
    """A column for each channel of the query heads."""
    return _by_columns(shape.hidden_size, shape.num_attention_heads * shape.kv_channels)


def gate_up(shape: ModelShape) -> Layout:
    """The gate, then the up projection."""
    rows = shape.ffn_hidden_size
    order = ((0, rows), (rows, 2 * rows))
    return Layout(sizes=(rows, rows), columns=shape.hidden_size, order=order, divided="each range")


def mlp_out(shape: ModelShape) -> Layout:
    """A column for each channel of the MLP's inner state."""
    return _by_columns(shape.hidden_size, shape.ffn_hidden_size)


def _by_columns(rows: int, columns: int) -> Layout:
    return Layout(sizes=(rows,), columns=columns, order=((0, rows),), divided="columns")


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """Where one of the engine's tensors lies in the weights.

    Attributes:
        engine: the engine's name for it without ".weight", and in a layer without the layer's number.
        names: stored tensors whose rows follow each other, without ".weight"; {prefix} and {layer} are
            filled in. One for each of the layout's parts, or one that holds them all.
        layout: order of the rows.
        bias: the shape's field that says whether there is a bias of the same rows; "" for none.
    """

    engine: str
    names: tuple[str, ...]
    layout: LayoutOf
    bias: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TensorTable:
    """A family's tensors: the same table reads them and writes them.

    Attributes:
        prefix: what a model with a head puts before the names of its body.
        ends: the embedding and the final norm.
        layer: what every layer has.
        lm_head: the language-model head, which a reward model does not have.
        buffers: ends of names that are computed, not loaded.
    """

    prefix: str
    ends: tuple[StoredTensor, ...]
    layer: tuple[StoredTensor, ...]
    lm_head: str
    buffers: tuple[str, ...]

    def name(self, template: str, *, layer: int = 0, kind: str = "weight") -> str:
        """The full name of a stored tensor: "model.layers.3.self_attn.q_proj.bias"."""
        return f"{template.format(prefix=self.prefix, layer=layer)}.{kind}"

    @property
    def embedding_name(self) -> str:
        """The full name of the token embedding, which every directory has."""
        (entry,) = (entry for entry in self.ends if entry.engine == EMBEDDING)
        return self.name(entry.names[0])


def decoder_tensors(
    *,
    prefix: str,
    embedding: str,
    final_norm: str,
    input_norm: str,
    qkv: tuple[str, ...],
    attention_output: str,
    mlp_norm: str,
    gate_and_up: tuple[str, ...],
    mlp_output: str,
    lm_head: str,
    buffers: tuple[str, ...],
) -> TensorTable:
    """The table of a decoder whose layers are norm, attention, norm and gated MLP, from its names."""
    return TensorTable(
        prefix=prefix,
        ends=(
            StoredTensor(engine=EMBEDDING, names=(embedding,), layout=vocabulary),
            StoredTensor(engine=FINAL_LAYERNORM, names=(final_norm,), layout=hidden_vector),
        ),
        layer=(
            StoredTensor(engine="input_layernorm", names=(input_norm,), layout=hidden_vector),
            StoredTensor(
                engine="self_attention.linear_qkv", names=qkv, layout=query_key_value, bias="add_qkv_bias"
            ),
            StoredTensor(
                engine="self_attention.linear_proj", names=(attention_output,), layout=attention_out
            ),
            StoredTensor(engine="pre_mlp_layernorm", names=(mlp_norm,), layout=hidden_vector),
            StoredTensor(engine="mlp.linear_fc1", names=gate_and_up, layout=gate_up),
            StoredTensor(engine="mlp.linear_fc2", names=(mlp_output,), layout=mlp_out),
        ),
        lm_head=lm_head,
        buffers=buffers,
    )
