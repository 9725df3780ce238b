"""PEFT's tensors of an adapter and the ranks' parts of them: each gives the other."""

import dataclasses

import pytest
import torch

from modellink_rm.adapters.lora import Lora
from modellink_rm.checkpoint.peft.names import adapted, expected_shapes, own_tensors, stored_tensors
from modellink_rm.checkpoint.peft.write import adapter_config
from modellink_rm.config.lora import LoraConfig
from modellink_rm.model.adapter_targets import new_adapters, shortest_names, targets_of
from modellink_rm.model.families.registry import shape_from_config
from modellink_rm.model.spec import ModelSpec
from tests.parity.family_cases import CASES

FAMILIES = ("llama-2", "phi-4", "chatglm3", "qwen2-moe", "deepseek-v2")


def spec_of(family: str, *names: str) -> ModelSpec:
    shape = shape_from_config(CASES[family].tiny_config())
    lora = new_adapters(LoraConfig(lora_r=2, lora_target_modules=names), shape)
    return ModelSpec(shape=shape, padded_vocab_size=320, lora=lora)


def random_tensors(spec: ModelSpec) -> dict[str, torch.Tensor]:
    assert spec.lora is not None
    shapes = {name: size for one in adapted(spec) for name, size in expected_shapes(one, spec.lora).items()}
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(size, generator=generator) for name, size in shapes.items()}


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("family", FAMILIES)
def test_parts_of_the_ranks_give_the_tensors_that_they_were_made_of(family: str, size: int) -> None:
    spec = spec_of(family)
    tensors = random_tensors(spec)
    found: dict[str, torch.Tensor] = {}
    for linear in adapted(spec):
        found |= stored_tensors(linear, [own_tensors(linear, tensors, rank, size) for rank in range(size)])
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)


def test_rows_of_matrices_without_adapters_are_0() -> None:
    spec = spec_of("llama-2", "q_proj", "v_proj")
    (linear,) = (one for one in adapted(spec) if one.layer == 0)
    a, b = own_tensors(linear, random_tensors(spec), 0, 1)
    shape = spec.shape
    assert a.shape == (4, shape.hidden_size)
    keys = [rows for rows in b.split(shape.kv_channels) if not rows.any()]
    assert len(keys) == shape.num_query_groups


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["linear_qkv"], "self_attn.k_proj self_attn.q_proj self_attn.v_proj"),
        (["linear_proj", "down_proj"], "mlp.down_proj self_attn.o_proj"),
        (["mlp.gate_proj"], "mlp.gate_proj"),
    ],
)
def test_targets_have_the_names_of_the_engine_or_of_the_model(names: list[str], expected: str) -> None:
    assert " ".join(targets_of(names, spec_of("llama-2").shape)) == expected


def test_names_are_shortened_where_that_names_nothing_else() -> None:
    spec = spec_of("llama-2", "q_proj", "linear_fc2")
    assert spec.lora is not None
    assert [*shortest_names(spec.lora, spec.shape).values()] == ["down_proj", "q_proj"]
    mixture = spec_of("qwen2-moe", "shared_expert.down_proj")
    assert mixture.lora is not None
    assert [*shortest_names(mixture.lora, mixture.shape).values()] == ["mlp.shared_expert.down_proj"]


def test_config_says_all_that_the_flags_say_of_adapters() -> None:
    shape = spec_of("llama-2").shape
    flags = LoraConfig(
        lora_r=3, lora_alpha=7.0, lora_dropout=0.2, lora_use_rslora=True, lora_target_modules=("q_proj",)
    )
    lora = new_adapters(flags, shape)
    assert lora is not None
    config = adapter_config(ModelSpec(shape=shape, padded_vocab_size=320, lora=lora), lora, base="llama")
    said = {"r": 3, "lora_alpha": 7.0, "lora_dropout": 0.2, "use_rslora": True, "target_modules": ["q_proj"]}
    assert {name: config[name] for name in said} == said


def test_scaling_is_that_of_the_papers() -> None:
    lora = Lora(rank=16, alpha=32, targets=("q_proj",))
    assert lora.scaling == 2
    assert dataclasses.replace(lora, use_rslora=True).scaling == 8
