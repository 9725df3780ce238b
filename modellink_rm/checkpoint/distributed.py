"""Checkpoints in megatron-core's distributed format: any parallel size reads what another wrote."""

import contextlib
import dataclasses
import errno
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from megatron.core import dist_checkpointing, parallel_state
from megatron.core.dist_checkpointing.mapping import ShardedObject
from megatron.core.tensor_parallel import get_cuda_rng_tracker
from torch.distributed.checkpoint.api import CheckpointException

from modellink_rm.base.checksums import FileEntry
from modellink_rm.base.errors import AgreedError, UserError
from modellink_rm.base.files import replace_directory, write_whole
from modellink_rm.base.log import info
from modellink_rm.base.megatron_compat import (
    all_rng_states,
    allocate_optimizer_state,
    keep_own_step,
    set_all_rng_states,
    single_optimizers,
)
from modellink_rm.checkpoint.files import FILES_NAME, TENSOR_SUFFIX, describe_files, files_json
from modellink_rm.checkpoint.layout import (
    LATEST_NAME,
    RUN_NAME,
    CheckpointInfo,
    RunInfo,
    checkpoint_directory,
)
from modellink_rm.checkpoint.verify import reading
from modellink_rm.checkpoint.writer import ThreadedSave
from modellink_rm.parallel.groups import Ranks

# torch's writer of files reports a full disk as a position in this source file that is not the expected one.
_TORCH_FILE_WRITER = "inline_container.cc"
_MIN_FREE_BYTES = 1 << 20


class CheckpointNotWrittenError(AgreedError):
    """The engine could not write a checkpoint."""


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
    run: RunInfo,
    info_files: dict[str, bytes],
    ranks: Ranks,
) -> Path:
    """Write `root/iter_N`, whole or not at all, and then the file that names the newest.

    Args:
        chunks: the process's stage or virtual stages, unwrapped or with gradient buffers.
        run: written as run.json.
        info_files: further small files that go with it, by name relative to the checkpoint.

    Returns:
        The checkpoint's directory.

    Raises:
        CheckpointNotWrittenError: on every process; nothing is left of it.
        UserError: on the first process alone, while the others wait for it.
    """

    def state() -> dict[str, Any]:
        return {
            **_sharded_state(chunks, optimizer, is_loading=False),
            "scheduler": scheduler.state_dict(),
            "progress": {"iteration": run.iteration, "consumed_samples": run.consumed_samples},
            "rng": _sharded_rng(ranks),
        }

    return _save(root, state, run, info_files, ranks)


def save_weights(
    root: Path, *, chunks: Sequence[Any], run: RunInfo, info_files: dict[str, bytes], ranks: Ranks
) -> Path:
    """Write a checkpoint of weights that no run has trained; as `save_checkpoint` otherwise."""
    return _save(root, lambda: _sharded_weights(chunks), run, info_files, ranks)


def _save(
    root: Path,
    make_state: Callable[[], dict[str, Any]],
    run: RunInfo,
    info_files: dict[str, bytes],
    ranks: Ranks,
) -> Path:
    """Write `root/iter_N`, whole or not at all, and then the file that names the newest."""
    final = checkpoint_directory(root, run.iteration)
    unfinished = final.with_name(final.name + ".tmp")
    if ranks.rank == 0:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
    torch.distributed.barrier()
    state = make_state()
    with _cleared_when_it_fails(unfinished, ranks):
        dist_checkpointing.save(state, str(unfinished), ThreadedSave())
    torch.distributed.barrier()
    tensors = _described_tensors(unfinished, ranks)
    if ranks.rank == 0:
        small_files = {**info_files, RUN_NAME: run.to_json()}
        _finish_checkpoint(unfinished, final, small_files, tensors)
        write_whole(root / LATEST_NAME, f"{run.iteration}\n".encode())
    torch.distributed.barrier()
    return final


def _described_tensors(unfinished: Path, ranks: Ranks) -> dict[str, FileEntry]:
    """Size and checksum of every file of tensors; each process reads those that it has just written."""
    mine = describe_files(unfinished, unfinished.glob(f"__{ranks.rank}_*{TENSOR_SUFFIX}"))
    gathered: list[dict[str, FileEntry]] = [{}] * ranks.world_size
    torch.distributed.all_gather_object(gathered, mine)
    return {name: entry for part in gathered for name, entry in part.items()}


def _finish_checkpoint(
    unfinished: Path, final: Path, info_files: dict[str, bytes], tensors: Mapping[str, FileEntry]
) -> None:
    """Write the small files, at last the list of all files, and give the directory its name.

    Args:
        tensors: what the files of tensors hold.
    """
    try:
        for name, content in info_files.items():
            path = unfinished / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, content)
        others = [path for path in unfinished.rglob("*") if path.is_file() and path.name not in tensors]
        entries = {**tensors, **describe_files(unfinished, others)}
        write_whole(unfinished / FILES_NAME, files_json(entries))
        replace_directory(unfinished, final)
    except OSError:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


@contextlib.contextmanager
def _cleared_when_it_fails(unfinished: Path, ranks: Ranks) -> Iterator[None]:
    """On failure, remove `unfinished` and raise an error of one line."""
    try:
        yield
    except CheckpointException as error:  # raised on every process, with the reason on the first
        raise CheckpointNotWrittenError(_not_written(unfinished, str(error), ranks)) from error
    except (OSError, RuntimeError) as error:  # of the file that the first process writes alone
        if isinstance(error, RuntimeError) and _TORCH_FILE_WRITER not in str(error):
            raise
        raise UserError(_not_written(unfinished, str(error), ranks)) from error


def _not_written(unfinished: Path, reason: str, ranks: Ranks) -> str:
    is_full = shutil.disk_usage(unfinished).free < _MIN_FREE_BYTES or os.strerror(errno.ENOSPC) in reason
    if ranks.rank == 0:
        shutil.rmtree(unfinished, ignore_errors=True)
    cause = "no space left on device; free some space" if is_full else reason.strip().splitlines()[-1]
    return f"the checkpoint {unfinished.with_suffix('')} could not be written: {cause}"


def load_weights(
    chunks: Sequence[Any], checkpoint: CheckpointInfo, ranks: Ranks, *, verifies: bool = True
) -> None:
    """Read the weights of a checkpoint into a model of any parallel size.

    Args:
        verifies: compare the files of tensors with their checksums first.

    Raises:
        CheckpointNotReadError: on every process: a file is not what was written, or cannot be read.
    """
    with reading(checkpoint, ranks, verifies=verifies):
        loaded = dist_checkpointing.load(_sharded_weights(chunks), str(checkpoint.path))
    _set_weights(chunks, loaded)


def load_train_state(
    chunks: Sequence[Any],
    optimizer: Any,
    scheduler: Any,
    checkpoint: CheckpointInfo,
    *,
    load_optim: bool,
    load_rng: bool,
    ranks: Ranks,
    verifies: bool = True,
) -> Progress:
    """Read everything that a run continues with, at any parallel size.

    The random generators' states are read only at the parallel sizes that wrote them.

    Args:
        verifies: compare the files of tensors with their checksums first.

    Raises:
        CheckpointNotReadError: on every process: a file is not what was written, or cannot be read.
    """
    state = _sharded_state(chunks, optimizer, is_loading=True) if load_optim else _sharded_weights(chunks)
    has_rng = load_rng and checkpoint.run.parallel_sizes == ranks.sizes
    if load_rng and not has_rng:
        info(f"random generators are reseeded: {checkpoint.path} was written at other parallel sizes")
    if has_rng:
        state["rng"] = _sharded_rng(ranks)
    with reading(checkpoint, ranks, verifies=verifies):
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
    for single in single_optimizers(optimizer):
        # The distributed optimizer cannot describe a state it has not allocated yet.
        if _is_distributed(single) and not single.is_stub_optimizer and not single.optimizer.state:
            allocate_optimizer_state(single)
    weights = _sharded_weights(chunks, metadata)
    state = optimizer.sharded_state_dict(weights, is_loading=is_loading, metadata=metadata)
    return {**weights, "optimizer": state}


def _load_optimizer(optimizer: Any, state: Any) -> None:
    """Load the optimizer's moments; its settings stay this run's.

    Two faults of megatron-core 0.16.1 with torch's AdamW are worked around: its distributed optimizer looks
    for `step` among the saved tensors, where it is not, and leaves all parameters with one shared `step`
    tensor, which every parameter's update then increments.
    """
    for single in filter(_is_distributed, single_optimizers(optimizer)):
        keep_own_step(single)
    # The saved groups bring the learning rates, betas and epsilon of the run that wrote them; this run's
    # flags are those of its own groups, which the engine keeps in their order.
    settings = [
        {name: value for name, value in group.items() if name not in ("params", "step")}
        for group in optimizer.param_groups
    ]
    optimizer.load_state_dict(state)
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        group.update(own)
    for single in single_optimizers(optimizer):
        if single.is_stub_optimizer:
            continue
        for parameter_state in single.optimizer.state.values():
            if isinstance(parameter_state.get("step"), torch.Tensor):
                parameter_state["step"] = parameter_state["step"].clone()


def _is_distributed(optimizer: Any) -> bool:
    from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer

    return isinstance(optimizer, DistributedOptimizer)


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
