"""The mean of the weights of several checkpoints, a layer at a time: never two models in memory."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory

from modellink_rm.base.files import version_of
from modellink_rm.checkpoint.distributed import load_in_place
from modellink_rm.checkpoint.files import FILES_NAME
from modellink_rm.checkpoint.layout import CheckpointInfo
from modellink_rm.checkpoint.pieces import parts_of
from modellink_rm.checkpoint.state import sharded_weights
from modellink_rm.checkpoint.verify import CheckpointNotReadError, reading
from modellink_rm.model.spec import LAYER_PREFIX
from modellink_rm.parallel.groups import Ranks, of_every_process

Block = tuple[str, str]  # a chunk, and a layer of it or another tensor


@torch.no_grad()
def load_average(
    chunks: Sequence[Any],
    checkpoints: Sequence[CheckpointInfo],
    shares: Sequence[float],
    ranks: Ranks,
    *,
    verifies: bool = True,
) -> None:
    """Fill a model of any parallel size with the mean of the weights of checkpoints; a collective.

    It is summed in float64, so that the mean of equal numbers is that number.

    Args:
        shares: of each checkpoint, adding up to 1.
        verifies: compare the files of tensors with their checksums first.

    Raises:
        CheckpointNotReadError: on every process: a file is not what was written, or cannot be read.
    """
    versions = [version_of(checkpoint.path / FILES_NAME) for checkpoint in checkpoints]
    for checkpoint in checkpoints:
        with reading(checkpoint, ranks, verifies=verifies):
            pass
    blocks = _blocks(chunks)
    # Every process takes part in each read, one with fewer blocks with nothing to read.
    for number in range(max(of_every_process(len(blocks)))):
        _average(chunks, blocks[number] if number < len(blocks) else None, checkpoints, shares, ranks)
    for checkpoint, version in zip(checkpoints, versions, strict=True):
        if any(of_every_process(version_of(checkpoint.path / FILES_NAME) != version)):
            raise CheckpointNotReadError(f"{checkpoint.path} was written anew while it was read: try again")


def _average(
    chunks: Sequence[Any],
    block: Block | None,
    checkpoints: Sequence[CheckpointInfo],
    shares: Sequence[float],
    ranks: Ranks,
) -> None:
    """Fill the tensors of one block."""
    tensors = [one.data for one in _tensors_of(chunks, block).values()]
    totals = [torch.zeros_like(tensor, dtype=torch.float64) for tensor in tensors]
    for checkpoint, share in zip(checkpoints, shares, strict=True):
        with reading(checkpoint, ranks, verifies=False):
            load_in_place(_pieces_of(chunks, block), checkpoint.path, is_whole=False)
        for total, tensor in zip(totals, tensors, strict=True):
            total.add_(tensor, alpha=share)
    for total, tensor in zip(totals, tensors, strict=True):
        tensor.copy_(total)


def _blocks(chunks: Sequence[Any]) -> list[Block]:
    """What is read together: the tensors of a layer, or any other tensor by itself."""
    names = [(chunk, name) for chunk, weights in sharded_weights(chunks).items() for name in weights]
    return list(dict.fromkeys((chunk, _block_of(name)) for chunk, name in names))


def _block_of(name: str) -> str:
    if not name.startswith(LAYER_PREFIX):
        return name
    return LAYER_PREFIX + name.removeprefix(LAYER_PREFIX).split(".", 1)[0]


def _pieces_of(chunks: Sequence[Any], block: Block | None) -> dict[str, ShardedTensor]:
    """The tensors of a block as pieces of those of a checkpoint, which hold all layers.

    A process that is alone could not describe one layer as its part of a regular grid: megatron-core 0.16.1,
    dist_checkpointing/strategies/torch.py, takes the others for its own too.
    """
    parts = [part for tensor in _tensors_of(chunks, block).values() for part in parts_of(tensor)]
    return {str(number): _as_piece(part) for number, part in enumerate(parts)}


def _as_piece(part: ShardedTensor) -> ShardedTensor:
    assert part.data is not None
    leading = (1,) * part.prepend_axis_num
    shape = (*leading, *part.local_shape)
    return dataclasses.replace(
        part, data=part.data.view(shape), local_shape=shape, axis_fragmentations=None, prepend_axis_num=0
    )


def _tensors_of(chunks: Sequence[Any], block: Block | None) -> dict[str, Any]:
    """The tensors of a block, described for a checkpoint."""
    if block is None:
        return {}
    weights = sharded_weights(chunks)[block[0]]
    kinds = (ShardedTensor, ShardedTensorFactory)
    return {
        name: value
        for name, value in weights.items()
        if _block_of(name) == block[1] and isinstance(value, kinds)
    }
