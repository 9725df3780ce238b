"""What a run takes of the memory of its devices, and a warning where that is not free."""

import os

import numpy as np

from modellink_rm.base.free_memory import free_memory
from modellink_rm.base.log import warn_once
from modellink_rm.base.platform import Platform, is_cpu
from modellink_rm.dataset.dataset import Dataset
from modellink_rm.estimate.gpus import GIB
from modellink_rm.estimate.memory import CPU, CUDA, Device, Workload, largest_micro_batch, memory_of
from modellink_rm.train.plan import RunPlan


def warn_of_memory(plan: RunPlan, platform: Platform, *, world_size: int, compiles_elementwise: bool) -> None:
    """Warn where a process is expected to take more memory than is free for it, before it takes any.

    Args:
        compiles_elementwise: whether norm, rotation and gate are compiled.
    """
    on_cpu = is_cpu(platform.device)
    run = workload_of(
        plan,
        CPU if on_cpu else CUDA,
        world_size=world_size,
        compiles_elementwise=compiles_elementwise,
    )
    free = free_memory(platform.device)
    if on_cpu:  # which the processes of this host share
        free //= int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    message = memory_warning(run, free)
    if message is not None:
        warn_once(message)


def memory_warning(run: Workload, free: int) -> str | None:
    """One line where a process of the run takes more than the free bytes; else None."""
    memory = memory_of(run)
    if memory.peak <= free:
        return None
    parts = {
        "weights": memory.weights,
        "gradients": memory.gradients,
        "optimizer": memory.optimizer,
        "activations": memory.activations,
    }
    named = ", ".join(f"{name} {size / GIB:.1f}" for name, size in parts.items())
    return (
        f"the run is expected to take {memory.peak / GIB:.1f} GiB a process ({named}), and {free / GIB:.1f} "
        "are free; --recompute-granularity full, a smaller --max-tokens-per-micro-batch or more processes "
        "take less, and python -m modellink_rm estimate says what fits"
    )


def workload_of(plan: RunPlan, device: Device, *, world_size: int, compiles_elementwise: bool) -> Workload:
    """The run as the estimate takes it, with micro-batches as full as they get."""
    config = plan.config
    return Workload(
        spec=plan.model.spec,
        parallel=config.parallel,
        precision=config.precision,
        optim=config.optim,
        world_size=world_size,
        num_tokens=largest_micro_batch(
            max(plan.max_tokens, _tokens_of_largest_row(plan)), config.data.seq_length
        ),
        # At most: one for each pair.
        num_micro_batches=-(-plan.batch_size // config.parallel.data_parallel_size(world_size)),
        device=device,
        compiles_elementwise=compiles_elementwise,
        num_trained_layers=config.training.num_trained_layers,
    )


def _tokens_of_largest_row(plan: RunPlan) -> int:
    """Tokens of the prompt whose responses have the most, at most: one of many fills more than a pair can."""
    seq_length = plan.config.data.seq_length
    parts = [plan.blend.train, *(one.part for one in plan.held_out)]
    datasets = {str(one.dataset.prefix): one.dataset for part in parts for one in part.datasets}
    return max(
        _most_tokens(dataset, seq_length, shares_prompts=plan.shares_prompts) for dataset in datasets.values()
    )


def _most_tokens(dataset: Dataset, seq_length: int, *, shares_prompts: bool) -> int:
    """Of a row with its responses; a prompt that is computed once counts once, as far as a manifest tells."""
    tokens = dataset.rows.num_tokens(seq_length)
    lengths = dataset.manifest.lengths if dataset.manifest is not None else {}
    if shares_prompts and lengths.keys() >= {"prompt", "chosen", "rejected"}:
        answer = max(lengths[side].longest for side in ("chosen", "rejected"))
        shared = lengths["prompt"].longest + answer * dataset.rows.num_responses().astype(np.int64)
        tokens = np.minimum(tokens, shared)
    return int(tokens.max(initial=0))
