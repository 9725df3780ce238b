"""The expected time of a step grows and shrinks with what it should."""

import dataclasses

import pytest

from modellink_rm.config.optim import OptimConfig
from modellink_rm.config.parallel import ParallelConfig
from modellink_rm.config.precision import PrecisionConfig
from modellink_rm.estimate.gpus import parse_gpus
from modellink_rm.estimate.memory import CUDA, Workload
from modellink_rm.estimate.step_time import SHARE_OF_PEAK, flops_of_pair, step_time
from tests.unit.estimate.shapes import LLAMA_8B, spec_of

ONE = Workload(
    spec=spec_of(LLAMA_8B),
    parallel=ParallelConfig(),
    precision=PrecisionConfig(bf16=True),
    optim=OptimConfig(),
    world_size=1,
    num_tokens=8192,
    num_micro_batches=8,
    device=CUDA,
)


def seconds(run: Workload, gpus: str = "1xH100") -> float:
    cluster = parse_gpus(gpus, host_memory=0)
    return step_time(run, cluster, batch_size=64, mean_length=2048).seconds


def test_a_pair_takes_six_flops_a_weight_and_token_and_its_attention() -> None:
    # 1024 tokens of prompt and twice 1024; the last layer computes little, the embedding nothing.
    weights_of_layers = 31 * (4096 * (4096 + 2 * 1024 + 4096) + 3 * 4096 * 14336)
    plain = 6 * weights_of_layers * 3 * 1024
    attention = 3 * 31 * 4 * 4096 * (1024 * 1025 / 2 * 3 + 2 * 1024 * 1024)
    assert flops_of_pair(LLAMA_8B, 2048) == pytest.approx(plain + attention, rel=0.01)


def test_one_gpu_computes_at_the_stated_share_of_its_peak() -> None:
    expected = 64 * flops_of_pair(LLAMA_8B, 2048) / (989e12 * SHARE_OF_PEAK * 8192 / 8692)
    assert seconds(ONE) == pytest.approx(expected)


def test_recomputing_takes_a_forward_pass_more() -> None:
    again = dataclasses.replace(ONE, precision=PrecisionConfig(bf16=True, recompute_granularity="full"))
    assert seconds(again) == pytest.approx(seconds(ONE) * 4 / 3)


def test_a_pipeline_waits_for_its_ends() -> None:
    run = dataclasses.replace(ONE, parallel=ParallelConfig(pipeline_model_parallel_size=4), world_size=4)
    assert seconds(run, "4xH100") == pytest.approx(seconds(ONE) / 4 * (8 + 3) / 8 / 0.93)


def test_replicas_on_other_nodes_exchange_more_slowly() -> None:
    run = dataclasses.replace(ONE, world_size=8)
    assert seconds(ONE) / 8 < seconds(run, "8xH100") < seconds(run, "8x1xH100")


def test_larger_micro_batches_are_faster() -> None:
    assert seconds(dataclasses.replace(ONE, num_tokens=16384)) < seconds(ONE)
