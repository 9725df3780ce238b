"""The memory of a process against arithmetic by hand."""

import dataclasses
from typing import Any

import pytest

from modellink_rm.config.optim import OptimConfig
from modellink_rm.config.parallel import ParallelConfig
from modellink_rm.config.precision import PrecisionConfig
from modellink_rm.estimate.memory import (
    CPU,
    CUDA,
    Device,
    Workload,
    largest_micro_batch,
    memory_of,
    memory_of_stage,
)
from modellink_rm.estimate.parameters import parameters_of_stage
from tests.unit.estimate.shapes import LLAMA_8B, published_shape, spec_of

NUM_PARAMETERS = parameters_of_stage(spec_of(LLAMA_8B), ParallelConfig(), 0).total
# Nothing but tensors.
BARE = Device(base=0, slack=1.0, gradient_copies=0.0, has_fused_norms=True, key_copies=None)


def workload(world_size: int = 1, *, device: Device = BARE, bf16: bool = True, **sizes: Any) -> Workload:
    """8192 tokens of a Llama of 8 billion weights in eight micro-batches."""
    return Workload(
        spec=spec_of(LLAMA_8B),
        parallel=ParallelConfig(**sizes),
        precision=PrecisionConfig(bf16=bf16),
        optim=OptimConfig(),
        world_size=world_size,
        num_tokens=8192,
        num_micro_batches=8,
        device=device,
    )


def test_a_bfloat16_weight_takes_eighteen_bytes() -> None:
    memory = memory_of(workload())
    parts = (memory.weights, memory.gradients, memory.optimizer)
    assert parts == (2 * NUM_PARAMETERS, 4 * NUM_PARAMETERS, 12 * NUM_PARAMETERS)


def test_a_float32_weight_takes_sixteen_bytes() -> None:
    memory = memory_of(workload(bf16=False))
    parts = (memory.weights, memory.gradients, memory.optimizer)
    assert parts == (4 * NUM_PARAMETERS, 4 * NUM_PARAMETERS, 8 * NUM_PARAMETERS)


def test_replicas_divide_the_optimizer_of_bfloat16_alone() -> None:
    assert memory_of(workload(8)).optimizer == -(-12 * NUM_PARAMETERS // 8)
    assert memory_of(workload(8, bf16=False)).optimizer == 8 * NUM_PARAMETERS
    divided = dataclasses.replace(workload(8, bf16=False), optim=OptimConfig(use_distributed_optimizer=True))
    assert memory_of(divided).optimizer == NUM_PARAMETERS


def test_copies_of_experts_divide_their_optimizer() -> None:
    spec = spec_of(published_shape("mixtral-8x7b"))
    run = dataclasses.replace(workload(16, expert_model_parallel_size=8), spec=spec)
    part = parameters_of_stage(spec, run.parallel, 0)
    assert memory_of(run).optimizer == pytest.approx(12 * (part.ordinary / 16 + part.experts / 2), abs=24)


def test_activations_of_a_layer_are_those_counted_by_hand() -> None:
    # Two norms with their outputs, queries, keys and values in one tensor, rotated queries and keys, the
    # output; gate and up in one tensor, the activated gate, the product.
    layer = 4 * 4096 + (4096 + 2 * 1024) + (4096 + 1024) + 4096 + 4 * 14336
    last = 2 * 4096 + 3 * 1024
    sums = 4 * 32  # of each head's weights
    assert memory_of(workload()).activations == 8192 * (31 * (2 * layer + sums) + 2 * last)


def test_the_first_stage_keeps_a_micro_batch_for_each_stage() -> None:
    run = workload(4, pipeline_model_parallel_size=4)
    first, second, _, last = (memory_of_stage(run, stage) for stage in range(4))
    outputs = 2 * 8192 * 4096  # of a stage, until its backward pass
    whole = memory_of(workload()).activations
    assert first.activations == pytest.approx(whole / 4 * 4 + 4 * outputs, rel=0.04)
    assert second.activations == pytest.approx(first.activations * 3 / 4)
    assert last.activations < second.activations / 2
    assert memory_of(run) == first
    few = dataclasses.replace(run, num_micro_batches=2)
    assert memory_of_stage(few, 0).activations == pytest.approx(first.activations / 2)


def test_interleaved_stages_keep_more() -> None:
    plain = workload(4, pipeline_model_parallel_size=4)
    interleaved = workload(4, pipeline_model_parallel_size=4, num_layers_per_virtual_pipeline_stage=4)
    # (2 * 3 + 4) + 1 halves of a stage, for four wholes.
    ratio = memory_of_stage(interleaved, 0).activations / memory_of_stage(plain, 0).activations
    assert ratio == pytest.approx(11 / 8, rel=0.03)


def test_recomputed_layers_keep_their_inputs() -> None:
    def kept(**fields: Any) -> int:
        precision = PrecisionConfig(bf16=True, recompute_granularity="full", **fields)
        return memory_of(dataclasses.replace(workload(), precision=precision)).activations

    an_input, whole = 2 * 8192 * 4096, memory_of(workload()).activations
    assert kept() == 32 * an_input
    assert kept(recompute_num_layers=4) == 8 * an_input
    block = kept(recompute_method="block", recompute_num_layers=16)
    assert block == pytest.approx(16 * an_input + whole / 2, rel=0.04)


def test_sequence_parallelism_divides_the_rows_of_norms_too() -> None:
    plain = memory_of(workload(4, tensor_model_parallel_size=4)).activations
    divided = memory_of(workload(4, tensor_model_parallel_size=4, sequence_parallel=True)).activations
    rows = 2 * 8192 * 4096 * (31 * 4 + 2)
    assert plain - divided == rows * 3 / 4


def test_context_parallelism_divides_all_but_keys_and_values() -> None:
    layer = 4 * 4096 + 2 * 4096 + 4 * 14336
    sums = 4 * 32
    expected = 31 * (2 * layer / 4 + 4 * 1024 + sums / 4) + 4 * 4096 / 4 + 4 * 1024
    assert memory_of(workload(4, context_parallel_size=4)).activations == 8192 * expected


def test_divided_weights_are_there_twice_while_the_model_is_built() -> None:
    memory = memory_of(dataclasses.replace(workload(64), num_tokens=1))
    assert memory.building == (2 + 2 + 4) * NUM_PARAMETERS
    assert memory.peak == memory.building


def test_devices_add_what_they_take_themselves() -> None:
    for device in (CPU, CUDA):
        assert memory_of(workload(device=device)).peak > memory_of(workload()).peak + device.base


def test_the_largest_micro_batch_is_the_budget_or_the_longest_pair() -> None:
    assert largest_micro_batch(8192, 1024) == 8192
    assert largest_micro_batch(8192, 8192) == 16384


def test_outputs_of_norms_and_gates_are_left_out_where_they_are_recomputed() -> None:
    def kept(*modules: str) -> int:
        precision = PrecisionConfig(bf16=True, recompute_granularity="selective", recompute_modules=modules)
        return memory_of(dataclasses.replace(workload(), precision=precision)).activations

    whole = memory_of(workload()).activations
    norms, gates = 2 * 8192 * 4096 * (31 * 2 + 1), 2 * 8192 * 31 * 2 * 14336
    assert whole - kept("layernorm") == norms
    assert whole - kept("mlp_act") == gates
    assert kept() == kept("layernorm", "mlp_act") == whole - norms - gates


def test_frozen_layers_have_neither_gradients_nor_moments_nor_activations() -> None:
    whole = memory_of(workload())
    last = memory_of(dataclasses.replace(workload(), num_trained_layers=8))
    layer = 2 * 4096 * (4096 + 1024) + 3 * 4096 * 14336 + 2 * 4096
    trained = 8 * layer + 4096  # with the final norm
    assert last.weights == whole.weights
    assert (last.gradients, last.optimizer) == (4 * trained, 12 * trained)
    assert last.activations == pytest.approx(whole.activations / 4, rel=0.1)


def test_a_head_alone_takes_the_weights_and_one_layer_at_a_time() -> None:
    whole, head = (memory_of(dataclasses.replace(workload(), num_trained_layers=one)) for one in (None, 0))
    assert head.weights == whole.weights
    assert (head.gradients, head.optimizer, head.activations) == (0, 0, 0)
    assert 0 < head.scratch < whole.activations / 20


def test_a_stage_of_frozen_layers_keeps_its_outputs_alone() -> None:
    run = dataclasses.replace(workload(2, pipeline_model_parallel_size=2), num_trained_layers=8)
    first, last = (memory_of_stage(run, stage) for stage in range(2))
    assert first.gradients == 0 < last.gradients
    assert first.activations == 2 * 2 * 8192 * 4096  # of two micro-batches
