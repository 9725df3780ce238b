"""Rows to the processes that hold their experts, and back."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.tensor_parallel import all_to_all
from torch import Tensor

# (rows [m, h] in the order of the experts, int64 [experts] rows of each) -> [m, h]
ComputeExperts = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class ExpertProcesses:
    """The processes that share the experts of a layer.

    Attributes:
        group: those that exchange rows; the process at ep_rank * etp_size + etp_rank holds part `etp_rank` of
            the matrices of part `ep_rank` of the experts.
    """

    group: Any
    ep_size: int
    ep_rank: int
    etp_size: int
    etp_rank: int


def expert_processes() -> ExpertProcesses:
    """This process's, in megatron-core's current groups."""
    return ExpertProcesses(
        group=parallel_state.get_expert_tensor_and_model_parallel_group(),
        ep_size=parallel_state.get_expert_model_parallel_world_size(),
        ep_rank=parallel_state.get_expert_model_parallel_rank(),
        etp_size=parallel_state.get_expert_tensor_parallel_world_size(),
        etp_rank=parallel_state.get_expert_tensor_parallel_rank(),
    )


def mixed_by_experts(
    rows: Tensor,
    weights: Tensor,
    chosen: Tensor,
    compute: ComputeExperts,
    *,
    num_experts: int,
    processes: ExpertProcesses,
) -> Tensor:
    """The sum of the outputs of each row's experts by their weights, [n, h].

    Every process of the group calls it, with rows or without.

    Args:
        rows: [n, h].
        weights: [n, k].
        chosen: int64 [n, k], experts of the whole layer.
        compute: the experts that this process holds; with parts of their matrices, a part of the sum.
    """
    num_rows, top_k = chosen.shape
    flat = chosen.flatten()
    order = torch.argsort(flat, stable=True)
    inverse = torch.argsort(order)
    counts = torch.zeros(num_experts, dtype=torch.int64, device=flat.device)
    counts.scatter_add_(0, flat, torch.ones_like(flat))
    by_expert: Tensor = _Repeated.apply(rows, order, inverse, top_k)  # type: ignore[no-untyped-call]
    if processes.group.size() == 1:
        outputs = compute(by_expert, counts)
    else:
        outputs = _computed_elsewhere(by_expert, counts, compute, processes)
    by_row = outputs.index_select(0, inverse).view(num_rows, top_k, -1)
    return (by_row * weights.to(rows.dtype)[..., None]).sum(dim=1)


def _computed_elsewhere(
    rows: Tensor, counts: Tensor, compute: ComputeExperts, processes: ExpertProcesses
) -> Tensor:
    """The outputs [m, h] of rows in the order of the experts, each computed where its expert is.

    The processes that hold parts of the same experts all get the rows, and their outputs are added up.
    """
    etp_size, num_local = processes.etp_size, len(counts) // processes.ep_size
    sent_counts = counts.view(processes.ep_size, num_local).repeat_interleave(etp_size, dim=0)
    received_counts = torch.empty_like(sent_counts)
    torch.distributed.all_to_all_single(received_counts, sent_counts, group=processes.group)
    num_sent, num_received = sent_counts.sum(dim=1).tolist(), received_counts.sum(dim=1).tolist()
    parts = torch.split(rows, num_sent[::etp_size])
    sent = torch.cat([part for part in parts for _ in range(etp_size)]) if etp_size > 1 else rows
    received = all_to_all(processes.group, sent, num_received, num_sent)
    # By source and expert; the experts want them by expert.
    experts = torch.arange(num_local, device=rows.device).repeat(len(num_received))
    order = torch.argsort(
        experts.repeat_interleave(received_counts.flatten(), output_size=sum(num_received)), stable=True
    )
    outputs = compute(received.index_select(0, order), received_counts.sum(dim=0))
    outputs = outputs.index_select(0, torch.argsort(order))
    returned: Tensor = all_to_all(processes.group, outputs, num_sent, num_received)
    if etp_size == 1:
        return returned
    copies = torch.split(returned, num_sent)
    return torch.cat(
        [
            sum(copies[first + 1 : first + etp_size], copies[first])
            for first in range(0, len(copies), etp_size)
        ]
    )


class _Repeated(torch.autograd.Function):
    """Rows [n, h], each `top_k` times, in another order; the gradients of a row's copies are added in order.

    That of indexing would be added in any order on a GPU.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, order: Tensor, inverse: Tensor, top_k: int) -> Tensor:
        ctx.save_for_backward(inverse)
        ctx.top_k = top_k
        return rows.index_select(0, order // top_k)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (inverse,) = ctx.saved_tensors
        by_row = gradient.index_select(0, inverse).view(-1, ctx.top_k, gradient.shape[-1])
        return by_row.sum(dim=1), None, None, None
