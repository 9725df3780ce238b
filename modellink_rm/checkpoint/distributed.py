"""Loading checkpoints in megatron-core's distributed format: any parallel size reads what another wrote."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.dict_utils import (
    dict_list_map_inplace,
    extract_matching_values,
    merge,
    nested_values,
)
from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory, apply_factories

from modellink_rm.base.errors import AgreedError, UserError
from modellink_rm.base.log import info
from modellink_rm.checkpoint.layout import CheckpointInfo
from modellink_rm.checkpoint.pickles import reason_of
from modellink_rm.checkpoint.replicas import divide_replicas, send_to_replicas
from modellink_rm.checkpoint.state import set_optimizer, set_rng, sharded_rng, sharded_state, sharded_weights
from modellink_rm.checkpoint.verify import reading
from modellink_rm.parallel.groups import Ranks

_READ_HERE = "read here"


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a run has come."""

    iteration: int
    consumed_samples: int


def load_weights(
    chunks: Sequence[Any], checkpoint: CheckpointInfo, ranks: Ranks, *, verifies: bool = True
) -> None:
    """Read the weights of a checkpoint into a model of any parallel size.

    Of a checkpoint of adapters, these and the head; others fill what is not of adapters.

    Args:
        verifies: compare the files of tensors with their checksums first.

    Raises:
        CheckpointNotReadError: on every process: a file is not what was written, or cannot be read.
    """
    with reading(checkpoint, ranks, verifies=verifies):
        of_base = checkpoint.run.spec.lora is None
        load_in_place(sharded_weights(chunks, of_base=of_base), checkpoint.path)


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
        AgreedError: the state is not what a run writes.
    """
    state = sharded_state(chunks, optimizer, is_loading=True) if load_optim else sharded_weights(chunks)
    has_rng = load_rng and checkpoint.run.parallel_sizes == ranks.sizes
    if load_rng and not has_rng:
        info(f"random generators are reseeded: {checkpoint.path} was written at other parallel sizes")
    if has_rng:
        state["rng"] = sharded_rng(ranks)
    with _damage_named(checkpoint):
        with reading(checkpoint, ranks, verifies=verifies):
            loaded = load_in_place(state, checkpoint.path)
        progress = progress_of(loaded, checkpoint)
        if load_optim:
            set_optimizer(optimizer, loaded["optimizer"])
            scheduler.load_state_dict(loaded["scheduler"])
        else:
            optimizer.reload_model_params()
            scheduler.step(increment=progress.consumed_samples)
        if has_rng:
            set_rng(loaded["rng"])
    return progress


def progress_of(loaded: Mapping[str, Any], checkpoint: CheckpointInfo) -> Progress:
    """What a loaded state says of the run, which is what its run.json says.

    Raises:
        ValueError: it is not.
        KeyError: it says nothing; likewise TypeError.
    """
    progress, run = Progress(**loaded["progress"]), checkpoint.run
    if (progress.iteration, progress.consumed_samples) != (
        run.iteration,
        progress.consumed_samples if run.consumed_samples is None else run.consumed_samples,
    ):
        raise ValueError(f"{progress} instead of iteration {run.iteration}")
    return progress


@contextlib.contextmanager
def _damage_named(checkpoint: CheckpointInfo) -> Iterator[None]:
    """Report a state that no run wrote, in files that are as their list says.

    Raises:
        AgreedError: what the block raised was of such a state.
    """
    try:
        yield
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise AgreedError(
            f"{checkpoint.path} holds no state that a run can go on with ({type(error).__name__}: "
            f"{reason_of(error)}); --finetune takes its weights alone"
        ) from error


@torch.no_grad()
def load_in_place(state: dict[str, Any], path: Path, *, is_whole: bool = True) -> dict[str, Any]:
    """Read tensors into those that `state` describes; those, and what the checkpoint holds beside tensors.

    Of tensors that several processes hold alike each reads a share, and sends it to the others.

    Args:
        is_whole: all processes together describe all of every tensor that they describe, which is checked.
    """
    described, rest = extract_matching_values(
        state, lambda value: isinstance(value, ShardedTensor | ShardedTensorFactory)
    )
    # What is stored as several tensors is read into views of the one: nothing is to be put together again.
    stored, _ = extract_matching_values(described, lambda _: True)
    apply_factories(stored)
    # Before the engine gives what it reads further axes.
    dict_list_map_inplace(lambda one: one.data, described)
    shares = divide_replicas(list(nested_values(stored)))
    mine = {str(number): share.tensor for number, share in enumerate(shares) if share.is_mine}
    targets = {number: tensor.data.detach() for number, tensor in mine.items()}
    loaded: dict[str, Any] = dist_checkpointing.load(
        {**rest, _READ_HERE: mine}, str(path), validate_access_integrity=is_whole
    )
    for number, tensor in loaded.pop(_READ_HERE, {}).items():
        if tensor.data_ptr() != targets[number].data_ptr():
            targets[number].copy_(tensor.view_as(targets[number]))
    send_to_replicas(shares)
    merge(loaded, described)
    return loaded
