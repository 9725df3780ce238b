"""How the tensors of latent attention are stored, in the names of DeepSeek's families."""

from modellink_rm.model.families.row_orders import RowOrder
from modellink_rm.model.families.tensors import StoredTensor
from modellink_rm.model.latent_shape import LatentShape
from modellink_rm.model.shape import ModelShape


def latent_attention_tensors(layer: str) -> tuple[StoredTensor, ...]:
    """The tensors of `LatentAttention`.

    Args:
        layer: what the names of a layer's tensors begin with.
    """
    before = f"{layer}self_attn."
    own = "self_attention."
    return (
        StoredTensor(
            engine=own + "linear_q", names=(before + "q_proj",), row_order=_queries, is_in_shape=_is_direct
        ),
        StoredTensor(
            engine=own + "query_latents.down",
            names=(before + "q_a_proj",),
            row_order=_query_latents,
            is_in_shape=_has_query_latents,
        ),
        StoredTensor(
            engine=own + "query_latents.norm",
            names=(before + "q_a_layernorm",),
            row_order=_query_latent_vector,
            is_in_shape=_has_query_latents,
        ),
        StoredTensor(
            engine=own + "linear_q",
            names=(before + "q_b_proj",),
            row_order=_queries,
            is_in_shape=_has_query_latents,
        ),
        StoredTensor(engine=own + "latents.down", names=(before + "kv_a_proj_with_mqa",), row_order=_latents),
        StoredTensor(
            engine=own + "latents.norm", names=(before + "kv_a_layernorm",), row_order=_latent_vector
        ),
        StoredTensor(engine=own + "linear_kv", names=(before + "kv_b_proj",), row_order=_keys_and_values),
        StoredTensor(engine=own + "linear_proj", names=(before + "o_proj",), row_order=_output),
    )


def _latent(shape: ModelShape) -> LatentShape:
    assert shape.latent is not None
    return shape.latent


def _has_query_latents(shape: ModelShape) -> bool:
    return _latent(shape).query_rank is not None


def _is_direct(shape: ModelShape) -> bool:
    return not _has_query_latents(shape)


def _queries(shape: ModelShape) -> RowOrder:
    """The heads; the plain channels of each are stored before its rotated ones, and follow them here."""
    latent = _latent(shape)
    size, plain = latent.head_channels, latent.plain_channels
    order: list[tuple[int, int]] = []
    for start in range(0, shape.num_attention_heads * size, size):
        order += [(start + plain, start + size), (start, start + plain)]
    return RowOrder(
        sizes=(shape.num_attention_heads * size,),
        columns=latent.query_rank or shape.hidden_size,
        order=tuple(order),
        divided="rows",
    )


def _keys_and_values(shape: ModelShape) -> RowOrder:
    """The heads: of each the plain channels of its key, then its value."""
    latent = _latent(shape)
    rows = shape.num_attention_heads * (latent.plain_channels + latent.value_channels)
    return RowOrder(sizes=(rows,), columns=latent.key_value_rank, order=((0, rows),), divided="rows")


def _output(shape: ModelShape) -> RowOrder:
    """A column for each channel of the value heads."""
    return RowOrder(
        sizes=(shape.hidden_size,),
        columns=shape.num_attention_heads * _latent(shape).value_channels,
        order=((0, shape.hidden_size),),
        divided="columns",
    )


def _latents(shape: ModelShape) -> RowOrder:
    """The small vector of keys and values, then the rotated channels of keys; whole on every rank."""
    return _whole(_latent(shape).key_value_rank + _latent(shape).rotary_channels, shape.hidden_size)


def _latent_vector(shape: ModelShape) -> RowOrder:
    return _whole(_latent(shape).key_value_rank, None)


def _query_latents(shape: ModelShape) -> RowOrder:
    return _whole(_latent(shape).query_rank or 0, shape.hidden_size)


def _query_latent_vector(shape: ModelShape) -> RowOrder:
    return _whole(_latent(shape).query_rank or 0, None)


def _whole(rows: int, columns: int | None) -> RowOrder:
    return RowOrder(sizes=(rows,), columns=columns, order=((0, rows),))
