"""The tensors of a family: the names under which its directories store the engine's, and their row orders."""

import dataclasses
from collections.abc import Callable
from typing import Literal

from modellink_rm.model.families.row_orders import (
    RowOrderOf,
    attention_out,
    expert_gate_up,
    expert_gate_up_interleaved,
    expert_out,
    gate_up,
    head_vector,
    hidden_row,
    hidden_vector,
    key_channels,
    mlp_out,
    query_channels,
    query_heads,
    query_key_value,
    router,
    shared_gate_up,
    shared_out,
    vocabulary,
)
from modellink_rm.model.shape import ModelShape
from modellink_rm.model.spec import EXPERTS_INFIX, LM_HEAD

EMBEDDING = "embedding.word_embeddings"
FINAL_LAYERNORM = "decoder.final_layernorm"
EXPERT_FC1 = f"{EXPERTS_INFIX}{{expert}}.fc1"
EXPERT_FC2 = f"{EXPERTS_INFIX}{{expert}}.fc2"


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
        return self._name_of_end(EMBEDDING)

    @property
    def final_norm_name(self) -> str:
        """The full name of the final norm's weight."""
        return self._name_of_end(FINAL_LAYERNORM)

    def _name_of_end(self, engine: str) -> str:
        (entry,) = (entry for entry in self.ends if entry.engine == engine)
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
