"""The estimate of a run with adapters: its parameters are those of the built model."""

import dataclasses

import pytest

from modellink_rm.config.lora import LoraConfig
from modellink_rm.config.optim import OptimConfig
from modellink_rm.config.parallel import ParallelConfig
from modellink_rm.config.precision import PrecisionConfig
from modellink_rm.estimate.memory import CUDA, Memory, Workload, memory_of
from modellink_rm.estimate.parameters import parameters_of_stage
from modellink_rm.model.adapter_targets import new_adapters
from modellink_rm.model.spec import ModelSpec
from tests.unit.estimate.shapes import LLAMA_8B, published_shape

SPEC = ModelSpec(shape=LLAMA_8B, padded_vocab_size=128_256)


def with_adapters(**flags: object) -> ModelSpec:
    config = LoraConfig(**flags)  # type: ignore[arg-type]
    return dataclasses.replace(SPEC, lora=new_adapters(config, LLAMA_8B))


def memory(spec: ModelSpec) -> Memory:
    return memory_of(
        Workload(
            spec=spec,
            parallel=ParallelConfig(),
            precision=PrecisionConfig(bf16=True, recompute_granularity="full"),
            optim=OptimConfig(),
            world_size=1,
            num_tokens=4096,
            num_micro_batches=16,
            device=CUDA,
        )
    )


def test_adapters_of_llama_8b_are_counted_by_hand() -> None:
    # Of a layer, by PEFT: q and o of 4096 x 4096, k and v of 1024 x 4096, gate, up and down of 14336 x 4096.
    of_layer = 2 * (4096 + 4096) + 2 * (4096 + 1024) + 3 * (4096 + 14336)
    found = parameters_of_stage(with_adapters(lora_r=16), ParallelConfig(), 0)
    assert found.adapters == found.trained == 32 * 16 * of_layer == 41_943_040
    assert found.quantized == 0


def test_tensor_parallelism_divides_what_is_divided() -> None:
    halves = parameters_of_stage(with_adapters(lora_r=16), ParallelConfig(tensor_model_parallel_size=2), 0)
    # A of q, k, v, gate and up is whole, and B of o and down.
    whole = 3 * 4096 + 2 * 4096 + 4096 + 4096
    divided = 4096 + 2 * 1024 + 2 * 14336 + 4096 + 14336
    assert halves.adapters == 32 * 16 * (whole + divided // 2)


def test_a_frozen_model_takes_its_weights_and_little_more() -> None:
    whole, frozen = memory(SPEC), memory(with_adapters(lora_r=16))
    assert frozen.weights == pytest.approx(whole.weights, rel=0.01)
    assert frozen.gradients < whole.gradients / 100
    assert frozen.optimizer < whole.optimizer / 100


def test_4_bits_take_9_16_of_a_byte_a_number() -> None:
    found = parameters_of_stage(with_adapters(lora_r=16, load_in_4bit=True), ParallelConfig(), 0)
    of_layer = 2 * 4096 * 4096 + 2 * 1024 * 4096 + 3 * 14336 * 4096
    assert found.quantized == 32 * of_layer
    weights = memory(with_adapters(lora_r=16, load_in_4bit=True)).weights
    rest = found.total - found.quantized + 41_943_040
    assert weights == round(0.5625 * found.quantized) + 2 * rest


def test_adapters_of_experts_are_counted_by_hand() -> None:
    shape = published_shape("qwen3-30b-a3b")
    names = ("q_proj", "linear_fc1", "linear_fc2")
    lora = new_adapters(LoraConfig(lora_r=8, lora_target_modules=names), shape)
    spec = ModelSpec(shape=shape, padded_vocab_size=shape.vocab_size, lora=lora)
    # Of each of 128 experts: an A for gate and up, and one for down.
    expert = 8 * ((2048 + 2 * 768) + (768 + 2048))
    found = parameters_of_stage(spec, ParallelConfig(), 0)
    assert found.trained_experts == 48 * 128 * expert
    # B has rows for the keys and values beside the queries, which stay 0.
    assert found.trained_ordinary == 48 * 8 * (2048 + 4096 + 2 * 512)
    assert found.adapters == found.trained
    parallel = ParallelConfig(expert_model_parallel_size=4, expert_tensor_parallel_size=2)
    parts = parameters_of_stage(spec, parallel, 0)
    # Of gate and up A is whole, of down B.
    assert parts.trained_experts == 48 * 32 * 8 * ((2048 + 768) + (384 + 2048))


def test_experts_in_4_bits_are_counted() -> None:
    shape = published_shape("mixtral-8x7b")
    lora = new_adapters(LoraConfig(lora_r=8, load_in_4bit=True), shape)
    spec = ModelSpec(shape=shape, padded_vocab_size=shape.vocab_size, lora=lora)
    found = parameters_of_stage(spec, ParallelConfig(), 0)
    assert found.quantized == found.experts + 32 * (2 * 4096 * 4096 + 2 * 1024 * 4096)
    assert found.largest == 8 * 2 * 14336 * 4096
