"""Tensors that several processes hold alike: which of them each one writes, or reads for the others."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.dist_checkpointing import ShardedTensor

from modellink_rm.model.spec import EXPERTS_INFIX


@dataclass(frozen=True)
class Share:
    """A tensor that a process holds.

    Attributes:
        group: the processes with the same tensor; None if there is no other.
        owner: rank in the group of the one that writes it, or reads it for the others.
    """

    tensor: ShardedTensor
    group: Any
    owner: int

    @property
    def is_mine(self) -> bool:
        """Whether this process is the owner."""
        return self.group is None or self.owner == self.group.rank()


def divide_replicas(tensors: Sequence[ShardedTensor]) -> list[Share]:
    """Give each tensor to one of its replicas, to each replica about the same number of bytes.

    The processes of a group hold the same tensors in the same order and come to the same result without an
    exchange. Marked as the copy that counts (`replica_id`) is the owner's.
    """
    loads: dict[Any, list[int]] = {}
    owners: dict[int, tuple[Any, int]] = {}
    for tensor in sorted(tensors, key=_num_bytes, reverse=True):
        group = _group_of(tensor)
        if group is None:
            owners[id(tensor)] = None, 0
            continue
        load = loads.setdefault(group, [0] * group.size())
        owner = load.index(min(load))
        load[owner] += _num_bytes(tensor)
        owners[id(tensor)] = group, owner
    shares = [Share(tensor, *owners[id(tensor)]) for tensor in tensors]
    for share in shares:
        share.tensor.replica_id = (*share.tensor.replica_id[:2], 0 if share.is_mine else 1)
    return shares


def send_to_replicas(shares: Sequence[Share]) -> None:
    """Give each tensor of its owner to the others, who write it into their own; a collective."""
    for share in shares:
        if share.group is not None:
            data = share.tensor.data
            assert data is not None
            # As bytes: gloo does not know every type.
            torch.distributed.broadcast(
                data.detach().view(-1).view(torch.uint8), group=share.group, group_src=share.owner
            )


def _group_of(tensor: ShardedTensor) -> Any:
    """The processes that hold the same tensor, if there are several."""
    if not tensor.has_regular_grid:  # a piece of the distributed optimizer's state
        return None
    if EXPERTS_INFIX in tensor.key:
        group = parallel_state.get_expert_data_parallel_group()
    else:
        group = parallel_state.get_data_parallel_group(with_context_parallel=True)
    return group if group.size() > 1 else None


def _num_bytes(tensor: ShardedTensor) -> int:
    assert tensor.data is not None
    return int(tensor.data.nbytes)
