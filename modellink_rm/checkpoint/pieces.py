"""The state of the engine's distributed optimizer as parts of whole tensors, each written by who holds it.

megatron-core 0.16.1 gathers the state of all replicas on each of them before it is saved, so that it can be
loaded at any parallel size (`fully_reshardable`). Here a process describes the range that it holds of a
parameter as boxes of the whole tensor, under the same names: nothing is gathered, files of either origin are
read by both, and loading writes into the optimizer's own memory.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

from megatron.core.dist_checkpointing import ShardedTensor
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedTensorFactory
from torch import Tensor

from modellink_rm.checkpoint.by_layer import named_by_layer

# What the engine calls them in a checkpoint: the parameter in float32, and AdamW's moments.
_STATES = ("param", "exp_avg", "exp_avg_sq")


def describe_by_pieces(optimizer: Any, step: Tensor | None, *, by_layer: bool) -> None:
    """Let a distributed optimizer describe its state by the pieces that it holds, and load it in place.

    Args:
        step: the number of steps, for one that has nothing to update; None before the first.
        by_layer: only some layers have a state, each under its own name.
    """

    def sharded_state_dict(weights: dict[str, Any], *_: Any, **__: Any) -> dict[str, Any]:
        pieces = list(_pieces_of(optimizer, weights, by_layer=by_layer))
        return {
            **(optimizer.state_dict() if optimizer.optimizer.state else _idle_state(optimizer, step)),
            "param_state": dict(enumerate(pieces)),
            "param_state_sharding_type": "fully_reshardable",
        }

    optimizer.sharded_state_dict = sharded_state_dict
    # They are where they belong as soon as they are read.
    optimizer.load_parameter_state_from_fully_reshardable = lambda _: None


def _idle_state(optimizer: Any, step: Tensor | None) -> dict[str, Any]:
    """What the engine's `state_dict` returns, of an optimizer whose process has nothing to update."""
    groups = [
        {**{name: value for name, value in group.items() if name != "params"}, "step": float(step or 0)}
        for group in optimizer.optimizer.param_groups
    ]
    return {"optimizer": {"param_groups": groups}}


def _pieces_of(optimizer: Any, weights: dict[str, Any], *, by_layer: bool) -> Iterator[ShardedTensor]:
    """Everything of the state that this process holds.

    Args:
        weights: the model's, described for a checkpoint.
    """
    kinds = (ShardedTensor, ShardedTensorFactory)
    described = {weight.data: weight for weight in nested_values(weights) if isinstance(weight, kinds)}
    for by_type in optimizer.gbuf_ranges:
        for bucket in (bucket for buckets in by_type.values() for bucket in buckets):
            for parameter, ranges in bucket["param_map"].items():
                held = ranges["param"]
                states = _states_of(optimizer, parameter)
                for part in parts_of(described[parameter]):
                    whole = named_by_layer(part) if by_layer else part
                    yield from _pieces_of_part(whole, parameter, held.start, held.end, states)


def _states_of(optimizer: Any, parameter: Tensor) -> dict[str, Tensor]:
    """What this process holds of a parameter's state, flat, by the names in a checkpoint."""
    group, order = optimizer.model_param_group_index_map[parameter]
    main_parameter = optimizer.optimizer.param_groups[group]["params"][order]
    states = {"param": main_parameter.detach(), **optimizer.optimizer.state[main_parameter]}
    return {name: states[name] for name in _STATES}


def parts_of(described: ShardedTensor | ShardedTensorFactory) -> list[ShardedTensor]:
    """The tensors of a checkpoint that a parameter is stored as: one, or gate and up apart."""
    if isinstance(described, ShardedTensorFactory):
        return list(nested_values({"parts": described.build()}))
    return [described]


def _pieces_of_part(
    whole: ShardedTensor, parameter: Tensor, start: int, stop: int, states: dict[str, Tensor]
) -> Iterator[ShardedTensor]:
    """The states of elements `start` to `stop` of a parameter, as far as they lie in one part of it.

    Args:
        states: flat, of those elements.
    """
    part = whole.data
    assert part is not None
    assert part.is_contiguous(), f"{whole.key}: the elements of a part do not follow each other"
    first = part.storage_offset() - parameter.storage_offset()
    begin, end = max(start - first, 0), min(stop - first, part.numel())
    leading = (1,) * whole.prepend_axis_num
    for offset, size in boxes(tuple(part.shape), begin, end):
        row = first - start + sum(map(math.prod, zip(offset, part.stride(), strict=True)))
        for name, state in states.items():
            yield dataclasses.replace(
                whole,
                key=f"optimizer.state.{name}.{whole.key}",
                data=state[row : row + math.prod(size)].view(*leading, *size),
                dtype=state.dtype,
                local_shape=(*leading, *size),
                global_offset=_shifted(whole.global_offset, offset),
                axis_fragmentations=None,
                replica_id=(*whole.replica_id[:2], 0),
                prepend_axis_num=0,
            )


def _shifted(global_offset: Sequence[int], offset: Sequence[int]) -> tuple[int, ...]:
    """An offset in the whole tensor, moved on by one in a part of its last axes."""
    padded = (0,) * (len(global_offset) - len(offset)) + tuple(offset)
    return tuple(a + b for a, b in zip(global_offset, padded, strict=True))


Box = tuple[tuple[int, ...], tuple[int, ...]]


def boxes(shape: tuple[int, ...], start: int, stop: int) -> list[Box]:
    """Elements `start` to `stop` of a tensor, counted row by row, as boxes (offset, size) in that order."""
    if start >= stop:
        return []
    if len(shape) == 1:
        return [((start,), (stop - start,))]
    row_size = math.prod(shape[1:])
    first, last = -(-start // row_size), stop // row_size  # the rows that are whole
    if first > last:
        return _in_a_row(shape, start, stop)
    zeros = (0,) * (len(shape) - 1)
    rows = [((first, *zeros), (last - first, *shape[1:]))] if first < last else []
    head, tail = _in_a_row(shape, start, first * row_size), _in_a_row(shape, last * row_size, stop)
    return [*head, *rows, *tail]


def _in_a_row(shape: tuple[int, ...], start: int, stop: int) -> list[Box]:
    """The boxes of elements that lie in one row."""
    row_size = math.prod(shape[1:])
    row = start // row_size
    inner = boxes(shape[1:], start - row * row_size, stop - row * row_size)
    return [((row, *offset), (1, *size)) for offset, size in inner]
