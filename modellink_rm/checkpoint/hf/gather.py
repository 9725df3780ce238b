"""The parts of a stage's tensors, gathered on the one process of the stage that writes them."""

from collections.abc import Mapping, Sequence

import torch
from megatron.core import parallel_state
from torch import Tensor

from modellink_rm.checkpoint.hf.mappings import TensorPlan, expert_number, is_of_expert, tensor_plan
from modellink_rm.model.families.registry import tensors_of
from modellink_rm.model.reward_model import RewardModel
from modellink_rm.model.spec import EXPERTS_INFIX, ModelSpec
from modellink_rm.parallel.groups import Ranks


def is_writer(ranks: Ranks) -> bool:
    """Whether this process gets the parts of its stage's tensors."""
    return ranks.tp_rank == 0 and ranks.dp_rank == 0 and ranks.cp_rank == 0


def takes_part(ranks: Ranks) -> bool:
    """Whether this process has parts that the writer of its stage needs: all of them gather every tensor."""
    return (ranks.dp_rank == 0 and ranks.cp_rank == 0) or _is_in_first_expert_group()


def tensors_of_stage(chunks: Sequence[RewardModel]) -> dict[str, Tensor | None]:
    """The tensors of the stage by name, in an order that its processes share.

    None stands for those of experts that other processes hold.
    """
    experts = chunks[0].spec.shape.experts
    tensors: dict[str, Tensor | None] = {}
    for chunk in chunks:
        held = dict(chunk.global_tensors())
        for name, parameter in chunk.global_parameters():
            if EXPERTS_INFIX not in name:
                tensors[name] = parameter
                continue
            assert experts is not None
            before, after = name.split(EXPERTS_INFIX)
            for number in range(experts.number):
                numbered = f"{before}{EXPERTS_INFIX}{number}.{after}"
                tensors[numbered] = held.get(numbered)
    return tensors


def plans_of(name: str, spec: ModelSpec, ranks: Ranks) -> list[TensorPlan]:
    """How the parts of a tensor are assembled from stored tensors, in the order of `gathered`."""
    table = tensors_of(spec)
    size = ranks.etp_size if is_of_expert(name) else ranks.tp_size
    return [tensor_plan(name, spec, table, tp_rank=rank, tp_size=size) for rank in range(size)]


def gathered(
    name: str,
    tensors: Mapping[str, Tensor | None],
    plans: Sequence[TensorPlan],
    spec: ModelSpec,
    ranks: Ranks,
) -> list[Tensor]:
    """The parts of a tensor on the writer's host, empty elsewhere; of equal copies one.

    Every process that `takes_part` calls it.
    """
    tensor = tensors[name]
    if is_of_expert(name):
        dtype = next(held.dtype for held in tensors.values() if held is not None)  # the head is the last
        return _gathered_expert(name, tensor, plans, spec, ranks, dtype=dtype)
    assert tensor is not None
    if ranks.dp_rank or ranks.cp_rank:
        return []
    if ranks.tp_size == 1 or not plans[0].is_divided:
        return [tensor.detach().cpu()] if is_writer(ranks) else []
    parts = [torch.empty_like(tensor) for _ in range(ranks.tp_size)] if ranks.tp_rank == 0 else None
    torch.distributed.gather(
        tensor.detach().contiguous(),
        parts,
        dst=parallel_state.get_tensor_model_parallel_src_rank(),
        group=parallel_state.get_tensor_model_parallel_group(),
    )
    return [part.cpu() for part in parts or ()]


def _gathered_expert(
    name: str,
    tensor: Tensor | None,
    plans: Sequence[TensorPlan],
    spec: ModelSpec,
    ranks: Ranks,
    *,
    dtype: torch.dtype,
) -> list[Tensor]:
    """The parts of an expert's tensor, sent by the processes that hold it."""
    if not _is_in_first_expert_group():
        return []
    assert spec.shape.experts is not None
    group = parallel_state.get_expert_tensor_and_model_parallel_group()
    members = torch.distributed.get_process_group_ranks(group)
    owner = expert_number(name) * ranks.ep_size // spec.shape.experts.number
    parts = []
    for etp_rank, plan in enumerate(plans):
        source, writer = members[owner * ranks.etp_size + etp_rank], members[0]
        if ranks.rank == source == writer:
            assert tensor is not None
            parts.append(tensor.detach().cpu())
        elif ranks.rank == source:
            assert tensor is not None
            torch.distributed.send(tensor.detach().contiguous(), dst=writer, group=group)
        elif ranks.rank == writer:
            part = torch.empty(plan.shape, dtype=dtype, device=torch.cuda.current_device())
            torch.distributed.recv(part, src=source, group=group)
            parts.append(part.cpu())
    return parts


def _is_in_first_expert_group() -> bool:
    """Whether this process shares experts with the writer."""
    return int(parallel_state.get_expert_data_parallel_rank()) == 0
