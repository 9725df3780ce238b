"""Tokens of a micro-batch on a GPU, by its memory; a CPU has those of its flags."""

import dataclasses

import torch

from modellink_rm.config.optim import OptimConfig
from modellink_rm.config.parallel import ParallelConfig
from modellink_rm.config.precision import PrecisionConfig
from modellink_rm.estimate.choose import USABLE_SHARE
from modellink_rm.estimate.memory import CUDA, Workload, memory_of
from modellink_rm.train.packing import budget_of_gpu, tokens_multiple
from tests.unit.estimate.shapes import LLAMA_8B, spec_of

GIB = 2**30
# Llama-3-8B in bfloat16 on eight GPUs that divide the optimizer's state.
RUN = Workload(
    spec=spec_of(LLAMA_8B),
    parallel=ParallelConfig(),
    precision=PrecisionConfig(bf16=True, recompute_granularity="selective"),
    optim=OptimConfig(use_distributed_optimizer=True),
    world_size=8,
    num_tokens=2048,
    num_micro_batches=8,
    device=CUDA,
    compiles_elementwise=True,
)


def budget(memory: int, *, least: int = 2048, largest: int = 2048) -> int:
    run = dataclasses.replace(RUN, num_tokens=largest)
    return budget_of_gpu(run, least=least, memory=memory)


def test_a_gpu_gets_as_many_tokens_as_keep_it_busy_and_fit() -> None:
    assert [budget(memory * GIB) for memory in (180, 112, 80)] == [16384, 8192, 2048]


def test_the_budget_is_the_one_whose_memory_is_estimated_to_fit() -> None:
    needed = memory_of(dataclasses.replace(RUN, num_tokens=8192)).peak
    memory = round(needed / USABLE_SHARE)
    assert budget(memory + 10) == 8192
    assert budget(memory - 10) == 2048


def test_an_example_that_fills_more_than_the_budget_is_what_has_to_fit() -> None:
    assert budget(112 * GIB, largest=16384) == 2048


def test_the_tokens_of_the_longest_pair_are_never_fewer() -> None:
    assert budget(80 * GIB, least=32768) == 32768


def test_micro_batches_are_padded_for_a_gpu_alone() -> None:
    parallel = ParallelConfig(tensor_model_parallel_size=2, context_parallel_size=3, sequence_parallel=True)
    assert tokens_multiple(parallel, torch.device("cpu")) == parallel.tokens_divisible_by() == 12
    assert tokens_multiple(parallel, torch.device("cuda")) == 384
