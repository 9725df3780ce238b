"""Checkpoints in megatron-core's distributed format: any parallel size reads what another wrote."""

import dataclasses
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from megatron.core import dist_checkpointing, parallel_state
from megatron.core.dist_checkpointing.mapping import ShardedObject
from megatron.core.tensor_parallel import get_cuda_rng_tracker

from modellink_rm.base.log import info
from modellink_rm.base.megatron_compat import (
    all_rng_states,
    allocate_optimizer_state,
    keep_own_step,
    set_all_rng_states,
    write_results_in_this_process,
)
from modellink_rm.checkpoint.layout import (
    FILES_NAME,
    LATEST_NAME,
    CheckpointInfo,
    checkpoint_directory,
    describe_files,
)
from modellink_rm.parallel.groups import Ranks


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a run has come."""

    iteration: int
    consumed_samples: int


def save_checkpoint(
    root: Path,
    *,
    chunks: Sequence[Any],
    optimizer: Any,
    scheduler: Any,
    progress: Progress,
    info_files: dict[str, bytes],
    ranks: Ranks,
) -> Path:
    """Write `root/iter_N`, whole or not at all, and then the file that names the newest.

    Args:
        chunks: the process's stage or virtual stages, unwrapped or with gradient buffers.
        info_files: small files that go with it, by name relative to the checkpoint.

    Returns:
        The checkpoint's directory.
    """
    final = checkpoint_directory(root, progress.iteration)
    unfinished = final.with_name(final.name + ".tmp")
    if ranks.rank == 0:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
    torch.distributed.barrier()
    state = _sharded_state(chunks, optimizer, is_loading=False)
    state["scheduler"] = scheduler.state_dict()
    state["progress"] = dataclasses.asdict(progress)
    state["rng"] = _sharded_rng(ranks)
    write_results_in_this_process()
    dist_checkpointing.save(state, str(unfinished))
    torch.distributed.barrier()
    if ranks.rank == 0:
        for name, content in info_files.items():
            path = unfinished / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        (unfinished / FILES_NAME).write_text(json.dumps(describe_files(unfinished), indent=1))
        _replace_directory(unfinished, final)
        _write_latest(root, progress.iteration)
    torch.distributed.barrier()
    return final


def load_weights(chunks: Sequence[Any], checkpoint: CheckpointInfo) -> None:
    """Read the weights of a checkpoint into a model of any parallel size."""
    _set_weights(chunks, dist_checkpointing.load(_sharded_weights(chunks), str(checkpoint.path)))


def load_train_state(
    chunks: Sequence[Any],
    optimizer: Any,
    scheduler: Any,
    checkpoint: CheckpointInfo,
    *,
    load_optim: bool,
    load_rng: bool,
    ranks: Ranks,
) -> Progress:
    """Read everything that a run continues with, at any parallel size.

    The random generators' states are read only at the parallel sizes that wrote them.
    """
    state = _sharded_state(chunks, optimizer, is_loading=True) if load_optim else _sharded_weights(chunks)
    has_rng = load_rng and checkpoint.parallel_sizes == ranks.sizes
    if load_rng and not has_rng:
        info(f"random generators start anew: {checkpoint.path} was written at other parallel sizes")
    if has_rng:
        state["rng"] = _sharded_rng(ranks)
    loaded = dist_checkpointing.load(state, str(checkpoint.path))
    _set_weights(chunks, loaded)
    if load_optim:
        _load_optimizer(optimizer, loaded["optimizer"])
        scheduler.load_state_dict(loaded["scheduler"])
    else:
        optimizer.reload_model_params()
        scheduler.step(increment=loaded["progress"]["consumed_samples"])
    if has_rng:
        _set_rng(loaded["rng"])
    return Progress(**loaded["progress"])


def _unwrapped(chunk: Any) -> Any:
    return chunk.module if hasattr(chunk, "ddp_config") else chunk


def _sharded_weights(chunks: Sequence[Any], metadata: dict[str, Any] | None = None) -> dict[str, Any]:
    """The weights by chunk; in the checkpoint a tensor has its name in the model, whoever holds it."""
    return {
        f"model{number}": _unwrapped(chunk).sharded_state_dict(metadata=metadata)
        for number, chunk in enumerate(chunks)
    }


def _set_weights(chunks: Sequence[Any], loaded: dict[str, Any]) -> None:
    for number, chunk in enumerate(chunks):
        _unwrapped(chunk).load_state_dict(loaded[f"model{number}"])


def _sharded_state(chunks: Sequence[Any], optimizer: Any, *, is_loading: bool) -> dict[str, Any]:
    metadata = {
        "distrib_optim_sharding_type": "fully_reshardable",
        "chained_optim_avoid_prefix": True,
        "dp_cp_group": parallel_state.get_data_parallel_group(with_context_parallel=True),
    }
    for part in _parts(optimizer):
        # The distributed optimizer cannot describe a state it has not allocated yet.
        if _is_distributed(part) and not part.is_stub_optimizer and not part.optimizer.state:
            allocate_optimizer_state(part)
    weights = _sharded_weights(chunks, metadata)
    state = optimizer.sharded_state_dict(weights, is_loading=is_loading, metadata=metadata)
    return {**weights, "optimizer": state}


def _load_optimizer(optimizer: Any, state: Any) -> None:
    """Load the optimizer's state, around two faults of megatron-core 0.16.1 with torch's AdamW.

    Its distributed optimizer looks for `step` among the saved tensors, where it is not, and leaves
    all parameters with one shared `step` tensor, which every parameter's update then increments.
    """
    for part in filter(_is_distributed, _parts(optimizer)):
        keep_own_step(part)
    optimizer.load_state_dict(state)
    for part in _parts(optimizer):
        if part.is_stub_optimizer:
            continue
        for parameter_state in part.optimizer.state.values():
            if isinstance(parameter_state.get("step"), torch.Tensor):
                parameter_state["step"] = parameter_state["step"].clone()


def _parts(optimizer: Any) -> list[Any]:
    return list(getattr(optimizer, "chained_optimizers", [optimizer]))


def _is_distributed(part: Any) -> bool:
    from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer

    return isinstance(part, DistributedOptimizer)


def _sharded_rng(ranks: Ranks) -> ShardedObject:
    """This process's generators' states, as one of (stages, tensor ranks, replicas, context ranks)."""
    cpu, device, _ = all_rng_states()
    state = {"cpu": cpu, "device": device, "tracker": get_cuda_rng_tracker().get_states()}
    return ShardedObject(
        "rng",
        state,
        ranks.sizes,
        (ranks.pp_rank, ranks.tp_rank, ranks.dp_rank, ranks.cp_rank),
        replica_id=0,
    )


def _set_rng(state: dict[str, Any]) -> None:
    set_all_rng_states(state["cpu"], state["device"], state["tracker"])


def _replace_directory(source: Path, target: Path) -> None:
    """Rename `source` to `target`, in place of a directory of that name."""
    if target.exists():
        old = target.with_name(target.name + ".old")
        shutil.rmtree(old, ignore_errors=True)
        os.replace(target, old)
        os.replace(source, target)
        shutil.rmtree(old)
    else:
        os.replace(source, target)


def _write_latest(root: Path, iteration: int) -> None:
    unfinished = root / (LATEST_NAME + ".tmp")
    unfinished.write_text(f"{iteration}\n")
    os.replace(unfinished, root / LATEST_NAME)
