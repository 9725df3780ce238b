import dataclasses

import pytest
import torch

from modellink_rm.checkpoint.hf.mappings import (
    RowRange,
    TensorPlan,
    engine_names,
    expected_shapes,
    tensor_plan,
)
from modellink_rm.model.families.registry import FAMILIES
from modellink_rm.model.latent_shape import LatentShape
from modellink_rm.model.shape import ModelShape
from modellink_rm.model.spec import ModelSpec

SHAPE = ModelShape(
    family="llama",
    num_layers=2,
    hidden_size=12,
    ffn_hidden_size=16,
    num_attention_heads=8,
    num_query_groups=2,
    kv_channels=6,  # not hidden size / heads
    vocab_size=21,
    max_position_embeddings=64,
    norm_epsilon=1e-5,
    rotary_base=10000.0,
    rotary_percent=1.0,
    rotary_interleaved=False,
    add_qkv_bias=True,
)
LATENT = LatentShape(
    key_value_rank=10,
    query_rank=7,
    rotary_channels=2,
    plain_channels=4,
    value_channels=5,
    norm_epsilon=1e-6,
)
LAYER = "decoder.layers.1"
LLAMA = FAMILIES["llama"].tensors


def built(plan: TensorPlan, weights: dict[str, torch.Tensor]) -> torch.Tensor:
    """The tensor of a plan, put together from whole tensors."""
    columns = slice(None) if plan.columns is None else slice(*plan.columns)
    pieces = [weights[piece.name][piece.start : piece.stop] for piece in plan.pieces]
    pieces = [piece if piece.dim() == 1 else piece[:, columns] for piece in pieces]
    row_shape = plan.shape[1:]
    tensor = torch.cat([*pieces, torch.zeros(plan.zero_rows, *row_shape)])
    assert tuple(tensor.shape) == plan.shape
    return tensor


def parts(
    engine_name: str, shape: ModelShape, weights: dict[str, torch.Tensor], tp_size: int
) -> list[torch.Tensor]:
    table, spec = FAMILIES[shape.family].tensors, ModelSpec(shape=shape, padded_vocab_size=32)
    return [
        built(tensor_plan(engine_name, spec, table, tp_rank=rank, tp_size=tp_size), weights)
        for rank in range(tp_size)
    ]


def random_weights(shape: ModelShape) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    table = FAMILIES[shape.family].tensors
    return {
        name: torch.randn(size, generator=generator) for name, size in expected_shapes(shape, table).items()
    }


def qkv_by_heads(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, shape: ModelShape
) -> torch.Tensor:
    """linear_qkv head by head: a group's queries, its key, its value."""
    size, rows = shape.kv_channels, []
    for group in range(shape.num_query_groups):
        for head in range(shape.num_attention_heads):
            if head * shape.num_query_groups // shape.num_attention_heads == group:
                rows.append(query[head * size : (head + 1) * size])
        rows.append(key[group * size : (group + 1) * size])
        rows.append(value[group * size : (group + 1) * size])
    return torch.cat(rows)


@pytest.mark.parametrize("kind", ["weight", "bias"])
@pytest.mark.parametrize("num_query_groups", [1, 2, 4, 8])
@pytest.mark.parametrize("tp_size", [1, 2, 4])
@pytest.mark.parametrize("family", ["llama", "chatglm"])
def test_qkv_of_all_ranks_is_the_layout_by_heads(
    family: str, tp_size: int, num_query_groups: int, kind: str
) -> None:
    shape = dataclasses.replace(SHAPE, family=family, num_query_groups=num_query_groups)
    weights = random_weights(shape)
    if family == "llama":
        query, key, value = (weights[f"model.layers.1.self_attn.{part}_proj.{kind}"] for part in "qkv")
    else:
        fused = weights[f"transformer.encoder.layers.1.self_attention.query_key_value.{kind}"]
        query, key, value = fused.split([8 * 6, num_query_groups * 6, num_query_groups * 6])
    ranks = parts(f"{LAYER}.self_attention.linear_qkv.{kind}", shape, weights, tp_size)
    assert len({rank.shape for rank in ranks}) == 1
    assert torch.equal(torch.cat(ranks), qkv_by_heads(query, key, value, shape))


def test_rank_with_part_of_a_group_finds_its_queries_as_the_engine_looks_for_them() -> None:
    # megatron-core 0.16.1, attention.py, get_query_key_value_tensors with fewer groups than ranks:
    # gather all ranks' rows, take this rank's group, then this rank's queries of the group.
    weights, tp_size, groups, size = random_weights(SHAPE), 4, 2, 6
    gathered = torch.cat(parts(f"{LAYER}.self_attention.linear_qkv.weight", SHAPE, weights, tp_size))
    query = weights["model.layers.1.self_attn.q_proj.weight"]
    key = weights["model.layers.1.self_attn.k_proj.weight"]
    for rank in range(tp_size):
        group = gathered.chunk(groups)[rank // (tp_size // groups)]
        queries, keys, _ = group.split([4 * size, size, size])
        half = rank % (tp_size // groups)
        assert torch.equal(
            queries[half * 2 * size : (half + 1) * 2 * size], query[rank * 12 : (rank + 1) * 12]
        )
        assert torch.equal(keys, key.chunk(groups)[rank // 2])


@pytest.mark.parametrize("tp_size", [1, 2, 4])
@pytest.mark.parametrize("family", ["llama", "glm", "chatglm"])
def test_a_rank_holds_its_gate_then_its_up_projection(family: str, tp_size: int) -> None:
    shape = dataclasses.replace(SHAPE, family=family)
    weights = random_weights(shape)
    if family == "llama":
        gate, up = (weights[f"model.layers.1.mlp.{part}_proj.weight"] for part in ("gate", "up"))
    else:
        fused = {
            "glm": "model.layers.1.mlp.gate_up_proj",
            "chatglm": "transformer.encoder.layers.1.mlp.dense_h_to_4h",
        }
        gate, up = weights[f"{fused[family]}.weight"].chunk(2)
    ranks = parts(f"{LAYER}.mlp.linear_fc1.weight", shape, weights, tp_size)
    for rank, tensor in enumerate(ranks):
        expected = torch.cat([gate.chunk(tp_size)[rank], up.chunk(tp_size)[rank]])
        assert torch.equal(tensor, expected)


@pytest.mark.parametrize(
    ("part", "name"),
    [("self_attention.linear_proj", "self_attn.o_proj"), ("mlp.linear_fc2", "mlp.down_proj")],
)
@pytest.mark.parametrize("tp_size", [1, 2, 4])
def test_output_projections_are_divided_by_columns(tp_size: int, part: str, name: str) -> None:
    weights = random_weights(SHAPE)
    ranks = parts(f"{LAYER}.{part}.weight", SHAPE, weights, tp_size)
    assert torch.equal(torch.cat(ranks, dim=1), weights[f"model.layers.1.{name}.weight"])


@pytest.mark.parametrize("tp_size", [1, 2, 4, 8])
def test_embedding_is_divided_by_rows_and_padded_with_zeros(tp_size: int) -> None:
    # 21 of 32 rows are the weights': with 8 ranks one is half padding and two are nothing else.
    weights = random_weights(SHAPE)
    whole = torch.cat(parts("embedding.word_embeddings.weight", SHAPE, weights, tp_size))
    assert torch.equal(whole[:21], weights["model.embed_tokens.weight"])
    assert torch.equal(whole[21:], torch.zeros(11, 12))


@pytest.mark.parametrize(
    ("engine_name", "name"),
    [
        (f"{LAYER}.input_layernorm.weight", "model.layers.1.input_layernorm.weight"),
        (f"{LAYER}.pre_mlp_layernorm.weight", "model.layers.1.post_attention_layernorm.weight"),
        ("decoder.final_layernorm.weight", "model.norm.weight"),
    ],
)
def test_norms_are_whole_on_every_rank(engine_name: str, name: str) -> None:
    weights = random_weights(SHAPE)
    for tensor in parts(engine_name, SHAPE, weights, 2):
        assert torch.equal(tensor, weights[name])


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_plans_of_one_rank_take_every_row_of_every_tensor_exactly_once(family: str) -> None:
    latent = LATENT if family == "deepseek_v2" else None
    shape = dataclasses.replace(SHAPE, family=family, latent=latent)
    table, spec = FAMILIES[family].tensors, ModelSpec(shape=shape, padded_vocab_size=21)
    taken: dict[str, list[int]] = {}
    for engine_name in engine_names(shape, table):
        plan = tensor_plan(engine_name, spec, table, tp_rank=0, tp_size=1)
        assert plan.zero_rows == 0
        for piece in plan.pieces:
            taken.setdefault(piece.name, []).extend(range(piece.start, piece.stop))
    expected = expected_shapes(shape, table)
    assert {name: sorted(rows) for name, rows in taken.items()} == {
        name: list(range(size[0])) for name, size in expected.items()
    }


def test_plan_is_plain_data() -> None:
    plan = tensor_plan(
        f"{LAYER}.mlp.linear_fc1.weight",
        ModelSpec(shape=SHAPE, padded_vocab_size=32),
        FAMILIES["chatglm"].tensors,
        tp_rank=1,
        tp_size=2,
    )
    name = "transformer.encoder.layers.1.mlp.dense_h_to_4h.weight"
    assert plan == TensorPlan(
        pieces=(RowRange(name, 8, 16), RowRange(name, 24, 32)), columns=None, shape=(16, 12), zero_rows=0
    )


def test_qkv_bias_is_named_only_where_there_is_one() -> None:
    assert f"{LAYER}.self_attention.linear_qkv.bias" in engine_names(SHAPE, LLAMA)
    without = dataclasses.replace(SHAPE, add_qkv_bias=False)
    assert not any(name.endswith("bias") for name in engine_names(without, LLAMA))
    assert not any(name.endswith("bias") for name in expected_shapes(without, LLAMA))
