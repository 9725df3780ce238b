"""How a family stores the engine's tensors: their names, and the order of their rows.

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
from modellink_rm.model.spec import EXPERTS_INFIX, LM_HEAD

EMBEDDING = "embedding.word_embeddings"
FINAL_LAYERNORM = "decoder.final_layernorm"
EXPERT_FC1 = f"{EXPERTS_INFIX}{{expert}}.fc1"
EXPERT_FC2 = f"{EXPERTS_INFIX}{{expert}}.fc2"


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """How one of the engine's tensors is stored in the weights.

    Attributes:
        engine: the engine's name without ".weight", and for a layer without the layer's number; for a tensor
            of every expert with {expert} for the expert's number.
        names: names of the stored tensors, without ".weight", with {prefix}, {layer} and {expert} to fill in:
            one for each part of the row order, or one that holds all parts.
        row_order: order of the rows; expert tensor parallelism divides those of experts.
        bias: the field of the shape that says whether there is a bias with the same rows; "" for none.
        is_bare: the stored names do not end in ".weight", and those of biases in "_bias".
        is_stacked: the stored tensor is that of every expert, [experts, columns, rows].
        layers: which layers have it: all, those without experts, or those with experts.
        is_in_shape: whether a model of some shape has it at all.
    """

    engine: str
    names: tuple[str, ...]
    row_order: RowOrderOf
    bias: str = ""
    is_bare: bool = False
    is_stacked: bool = False
    layers: Literal["all", "dense", "sparse"] = "all"
    is_in_shape: Callable[[ModelShape], bool] = lambda shape: True

    def is_in(self, shape: ModelShape, layer: int) -> bool:
        """Whether layer `layer` of a model has it."""
        if not self.is_in_shape(shape):
            return False
        return self.layers == "all" or (self.layers == "sparse") == shape.is_sparse(layer)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TensorTable:
    """The tensors of a family; the same table is used for reading and for writing.

    Attributes:
        prefix: prefix of the body's names in a model with a head.
        ends: the embedding and the final norm.
        layer: the tensors of the layers.
        lm_head: the language-model head, which a reward model does not have.
        buffers: endings of names that are computed, not loaded.
        head: the reward head.
    """

    prefix: str
    ends: tuple[StoredTensor, ...]
    layer: tuple[StoredTensor, ...]
    lm_head: str
    buffers: tuple[str, ...]
    head: str = "score"

    def name(self, template: str, *, layer: int = 0, expert: int = 0, kind: str = "weight") -> str:
        """The full name of a stored tensor: "model.layers.3.self_attn.q_proj.bias"; no ending for no kind."""
        filled = template.format(prefix=self.prefix, layer=layer, expert=expert)
        return f"{filled}.{kind}" if kind else filled

    def with_lm_head(self, *, is_tied: bool) -> "TensorTable":
        """The table with the language-model head, which is read from the token embedding where it is tied."""
        (embedding,) = (entry for entry in self.ends if entry.engine == EMBEDDING)
        names = embedding.names if is_tied else (self.lm_head,)
        head = StoredTensor(engine=LM_HEAD, names=names, row_order=vocabulary)
        return dataclasses.replace(self, ends=(*self.ends, head))

    @property
    def head_name(self) -> str:
        """The full name of the reward head's weight."""
        return self.name(self.head)

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
    input_norm: str | None,
    qkv: tuple[str, ...] | None,
    attention_output: str | None,
    mlp_norm: str | None,
    gate_and_up: tuple[str, ...],
    mlp_output: str,
    lm_head: str,
    buffers: tuple[str, ...],
    head: str = "score",
    query_key_value_order: RowOrderOf = query_key_value,
    more_of_layer: tuple[StoredTensor, ...] = (),
) -> TensorTable:
    """The table of a decoder whose layers are norm, attention, norm and gated MLP, from its names.

    Args:
        input_norm: None for layers without it, as is `mlp_norm`.
        qkv: None, as is `attention_output`, where `more_of_layer` has the tensors of attention.
        query_key_value_order: order of the rows of `qkv`.
        more_of_layer: further tensors of layers, such as `head_norms` and `experts_tensors`.
    """
    norms = {"input_layernorm": input_norm, "pre_mlp_layernorm": mlp_norm}
    return TensorTable(
        prefix=prefix,
        ends=(
            StoredTensor(engine=EMBEDDING, names=(embedding,), row_order=vocabulary),
            StoredTensor(engine=FINAL_LAYERNORM, names=(final_norm,), row_order=hidden_vector),
        ),
        layer=(
            *(
                StoredTensor(engine=engine, names=(name,), row_order=hidden_vector)
                for engine, name in norms.items()
                if name is not None
            ),
            *_attention_tensors(qkv, attention_output, query_key_value_order),
            StoredTensor(engine="mlp.linear_fc1", names=gate_and_up, row_order=gate_up, layers="dense"),
            StoredTensor(engine="mlp.linear_fc2", names=(mlp_output,), row_order=mlp_out, layers="dense"),
            *more_of_layer,
        ),
        lm_head=lm_head,
        buffers=buffers,
        head=head,
    )


def _attention_tensors(
    qkv: tuple[str, ...] | None, output: str | None, order: RowOrderOf
) -> tuple[StoredTensor, ...]:
    """The projections of ordinary attention, from their names."""
    if qkv is None or output is None:
        return ()
    return (
        StoredTensor(engine="self_attention.linear_qkv", names=qkv, row_order=order, bias="add_qkv_bias"),
        StoredTensor(
            engine="self_attention.linear_proj",
            names=(output,),
            row_order=attention_out,
            bias="attention_output_bias",
        ),
    )


def head_norms(query: str, key: str) -> tuple[StoredTensor, ...]:
    """The weights of the norms of each head's queries and keys, from their names."""
    return (
        StoredTensor(engine="self_attention.q_layernorm", names=(query,), row_order=head_vector),
        StoredTensor(engine="self_attention.k_layernorm", names=(key,), row_order=head_vector),
    )


def post_norms(attention: str, mlp: str) -> tuple[StoredTensor, ...]:
    """The weights of the norms after attention and after the MLP, from their names."""
    return (
        StoredTensor(engine="self_attn_bda.norm", names=(attention,), row_order=hidden_vector),
        StoredTensor(engine="mlp_bda.norm", names=(mlp,), row_order=hidden_vector),
    )


def all_heads_norms(query: str, key: str) -> tuple[StoredTensor, ...]:
    """The weights of the norms over all heads' queries and keys, from their names."""
    return (
        StoredTensor(engine="self_attention.q_layernorm", names=(query,), row_order=query_channels),
        StoredTensor(engine="self_attention.k_layernorm", names=(key,), row_order=key_channels),
    )


def attention_sinks(name: str) -> tuple[StoredTensor, ...]:
    """The sinks of every layer, from their name."""
    return (
        StoredTensor(
            engine="self_attention.core_attention.sinks",
            names=(name,),
            row_order=query_heads,
            is_bare=True,
        ),
    )


def experts_tensors(
    *, router_name: str, gate_and_up: tuple[str, ...], output: str
) -> tuple[StoredTensor, ...]:
    """The tensors of the router and of every expert, from their names."""
    return (
        StoredTensor(engine="mlp.router", names=(router_name,), row_order=router, layers="sparse"),
        StoredTensor(engine=EXPERT_FC1, names=gate_and_up, row_order=expert_gate_up, layers="sparse"),
        StoredTensor(engine=EXPERT_FC2, names=(output,), row_order=expert_out, layers="sparse"),
    )


def stacked_experts_tensors(*, router_name: str, gate_and_up: str, output: str) -> tuple[StoredTensor, ...]:
    """The tensors of the router and of all experts together, with biases, from their names.

    As gpt-oss stores them: each expert's matrices transposed, gate and up a column of each in turn.
    """
    bias = "has_expert_biases"
    return (
        StoredTensor(engine="mlp.router", names=(router_name,), row_order=router, bias=bias, layers="sparse"),
        *(
            StoredTensor(
                engine=engine,
                names=(name,),
                row_order=row_order,
                bias=bias,
                is_bare=True,
                is_stacked=True,
                layers="sparse",
            )
            for engine, name, row_order in (
                (EXPERT_FC1, gate_and_up, expert_gate_up_interleaved),
                (EXPERT_FC2, output, expert_out),
            )
        ),
    )


def shared_expert_tensors(
    *, gate_and_up: tuple[str, ...], output: str, gate: str | None
) -> tuple[StoredTensor, ...]:
    """The tensors of the expert of every token, and of its gate if it has one, from their names."""
    expert = (
        StoredTensor(
            engine="mlp.shared_expert.linear_fc1",
            names=gate_and_up,
            row_order=shared_gate_up,
            layers="sparse",
        ),
        StoredTensor(
            engine="mlp.shared_expert.linear_fc2", names=(output,), row_order=shared_out, layers="sparse"
        ),
    )
    if gate is None:
        return expert
    return (
        *expert,
        StoredTensor(engine="mlp.shared_gate", names=(gate,), row_order=hidden_row, layers="sparse"),
    )
