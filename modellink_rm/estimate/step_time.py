"""The time that a step is expected to take: products at a share of the peak, exchanges between processes."""

from dataclasses import dataclass
from functools import cache

import numpy as np

from modellink_rm.batching.batch import pack_examples
from modellink_rm.dataset.example import Example, Response
from modellink_rm.estimate.gpus import Cluster
from modellink_rm.estimate.memory import Workload
from modellink_rm.estimate.parameters import parameters_of_stage
from modellink_rm.model.flops import training_flops
from modellink_rm.model.shape import ModelShape

# Shares of the peak that products reach over a step: expectations, until they are measured on a GPU.
SHARE_OF_PEAK = 0.5
SHARE_OF_EXPERTS = 0.3  # smaller products, and rows that go to other processes
_SHARE_BY_TENSOR_PARALLEL = {1: 1.0, 2: 0.88, 4: 0.75, 8: 0.62}
_SHARE_BY_CONTEXT_PARALLEL = 0.87  # at each doubling: keys and values are gathered
_SHARE_BY_PIPELINE = 0.93  # stages wait for micro-batches of other lengths
_SHARE_ACROSS_NODES = 0.6  # of experts whose rows leave the node
_COST_OF_RECOMPUTING = {None: 1.0, "selective": 1.03, "full": 4 / 3}  # norms and gates; a forward pass
_TOKENS_OF_HALF_SPEED = 500  # of a process in a micro-batch: smaller products are slower
# Bytes a second of one process in collectives, and the part of a step's products that they can hide behind.
_BYTES_PER_SECOND_IN_NODE = 150e9
_BYTES_PER_SECOND_BETWEEN_NODES = 20e9
_HIDDEN_SHARE = 0.5


@dataclass(frozen=True, kw_only=True)
class StepTime:
    """The time of a step in seconds.

    Attributes:
        flops: of a step's products over all GPUs, without what is computed again.
        share: of the peak of all GPUs that these are, over the whole step.
    """

    seconds: float
    flops: int
    share: float


@cache
def flops_of_pair(
    shape: ModelShape, length: int, *, trained_share: float = 1.0, trains_weights: bool = True
) -> int:
    """FLOPs to train on a pair of `length` tokens a side, half of it a prompt that both share."""
    ids = np.zeros(length, dtype=np.int32)
    sides = (Response(ids, length // 2), Response(ids + np.arange(length) // (length // 2), length // 2))
    batch = pack_examples([Example(0, sides)])
    return training_flops(shape, batch, trained_share=trained_share, trains_weights=trains_weights)


def step_time(run: Workload, cluster: Cluster, *, batch_size: int, mean_length: int) -> StepTime:
    """The expected time of a step of `batch_size` pairs.

    Args:
        mean_length: tokens of prompt and response of a pair's side, of which half are prompt.
    """
    parallel, shape = run.parallel, run.spec.shape
    flops = batch_size * flops_of_pair(
        shape,
        mean_length,
        trained_share=1 - run.first_trained_layer / shape.num_layers,
        trains_weights=run.spec.lora is None,
    )
    peak = (cluster.gpu.tflops or 1.0) * 1e12 * run.world_size  # without a speed, to compare choices
    computed = flops * _COST_OF_RECOMPUTING[run.precision.recompute_granularity]
    busy = computed / (peak * _share(run, cluster))
    num_stages = parallel.pipeline_model_parallel_size
    turns = run.num_micro_batches * parallel.num_virtual_stages(shape.num_layers)
    waiting = busy * (num_stages - 1) / turns
    exchanges = _seconds_of_exchanges(run, cluster)
    exposed = max(exchanges - _HIDDEN_SHARE * busy, 0.1 * exchanges)
    seconds = busy + waiting + exposed
    return StepTime(seconds=seconds, flops=flops, share=flops / peak / seconds)


def _share(run: Workload, cluster: Cluster) -> float:
    """The share of the peak at which one process computes."""
    parallel = run.parallel
    share = SHARE_OF_PEAK if run.spec.shape.experts is None else SHARE_OF_EXPERTS
    share *= _SHARE_BY_TENSOR_PARALLEL.get(parallel.tensor_model_parallel_size, 0.4)
    share *= _SHARE_BY_CONTEXT_PARALLEL ** np.log2(parallel.context_parallel_size)
    share *= _SHARE_BY_PIPELINE if parallel.pipeline_model_parallel_size > 1 else 1.0
    tokens = run.num_tokens / parallel.context_parallel_size
    share *= tokens / (tokens + _TOKENS_OF_HALF_SPEED)
    if parallel.expert_group_size > cluster.per_node:
        share *= _SHARE_ACROSS_NODES
    return float(share)


def _seconds_of_exchanges(run: Workload, cluster: Cluster) -> float:
    """Seconds in which gradients are added up and weights gathered over the replicas."""
    parallel = run.parallel
    stage_size = run.world_size // parallel.pipeline_model_parallel_size
    if stage_size == parallel.tensor_model_parallel_size:
        return 0.0
    size = 2 if run.precision.bf16 else 4
    stages = range(parallel.pipeline_model_parallel_size)
    parameters = max(
        parameters_of_stage(run.spec, parallel, stage, num_trained_layers=run.num_trained_layers).trained
        for stage in stages
    )
    is_in_node = run.world_size <= cluster.per_node
    rate = _BYTES_PER_SECOND_IN_NODE if is_in_node else _BYTES_PER_SECOND_BETWEEN_NODES
    return parameters * (4 + size) / rate
