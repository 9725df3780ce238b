"""What `estimate` says of a choice, as lines and as values for a file."""

import json

from modellink_rm.config.estimate import EstimateConfig
from modellink_rm.config.parallel import ParallelConfig
from modellink_rm.estimate.choose import Choice, Question
from modellink_rm.estimate.gpus import GIB, GPUS, UNNAMED, Cluster
from modellink_rm.estimate.memory import Memory
from modellink_rm.estimate.parameters import parameters_of_stage


def report_lines(question: Question, choice: Choice) -> list[str]:
    """The lines to print: the model, how it is run, memory, time, and flags to paste."""
    run, cluster, config = choice.run, question.cluster, question.config
    parallel, shape = run.parallel, question.shape
    whole = parameters_of_stage(run.spec, ParallelConfig(), 0).total
    sizes = f"tensor {parallel.tensor_model_parallel_size}, pipeline {parallel.pipeline_model_parallel_size}"
    for name, size in (
        ("context", parallel.context_parallel_size),
        ("expert", parallel.expert_model_parallel_size),
    ):
        sizes += f", {name} {size}" if size > 1 else ""
    replicas = parallel.data_parallel_size(run.world_size)
    kind = "bfloat16" if run.precision.bf16 else "float32"
    recompute = run.precision.recompute_granularity or "nothing"
    return [
        f"model          {shape.family}, {_count(whole)} parameters, {shape.num_layers} layers, {kind}",
        f"devices        {cluster}: {cluster.gpu.memory / GIB:.1f} GiB each, of which "
        f"{question.usable / GIB:.1f} are planned with",
        f"parallel       {sizes}, data {replicas}",
        f"micro-batches  {choice.max_tokens:,} tokens, about {run.num_micro_batches} a step and replica; "
        f"recomputed: {recompute}",
        "memory         of the process that needs most, GiB",
        *(f"  {name:13s}{size / GIB:8.2f}" for name, size in _parts(choice.memory).items()),
        *_time_lines(choice, cluster, config),
        f"flags          {' '.join([*choice.flags(), *question.lora.words])} \\",
        f"               --seq-length {config.seq_length} --global-batch-size {config.global_batch_size}",
    ]


def report_json(question: Question, choice: Choice) -> bytes:
    """The same for a file: bytes, seconds, sizes, flags."""
    run = choice.run
    values = {
        "gpus": str(question.cluster),
        "world_size": run.world_size,
        "tensor_model_parallel_size": run.parallel.tensor_model_parallel_size,
        "pipeline_model_parallel_size": run.parallel.pipeline_model_parallel_size,
        "context_parallel_size": run.parallel.context_parallel_size,
        "expert_model_parallel_size": run.parallel.expert_model_parallel_size,
        "data_parallel_size": run.parallel.data_parallel_size(run.world_size),
        "max_tokens_per_micro_batch": choice.max_tokens,
        "recompute_granularity": run.precision.recompute_granularity,
        "memory_bytes": _parts(choice.memory),
        "usable_bytes": round(question.usable),
        "step_seconds": choice.time.seconds if question.cluster.gpu.tflops else None,
        "step_flops": choice.time.flops,
        "flags": [*choice.flags(), *question.lora.words],
    }
    return json.dumps(values, indent=1).encode() + b"\n"


def _parts(memory: Memory) -> dict[str, int]:
    return {
        "weights": memory.weights,
        "gradients": memory.gradients,
        "optimizer": memory.optimizer,
        "activations": memory.activations,
        "scratch": memory.scratch,
        "at most": memory.peak,
    }


def _time_lines(choice: Choice, cluster: Cluster, config: EstimateConfig) -> list[str]:
    time = choice.time
    if not cluster.gpu.tflops:
        return [f"step           {time.flops / 1e12:,.2f} TFLOP; --peak-tflops gives its time"]
    length = config.mean_length or config.seq_length
    whose = f"{cluster.gpu.tflops:,.4g} TFLOP/s"
    if config.peak_tflops is None and cluster.name not in GPUS:
        whose += f" (taken from {UNNAMED}; name the GPU or give --peak-tflops)"
    return [
        f"step           about {time.seconds:.1f} s if pairs have {length:,} tokens a side: "
        f"{time.flops / 1e15:,.2f} PFLOP at {time.share:.0%} of {whose}; not measured yet"
    ]


def _count(number: int) -> str:
    """In billions, or in millions what is less than a hundredth of that."""
    return f"{number / 1e9:.2f} B" if number >= 1e7 else f"{number / 1e6:.2f} M"
