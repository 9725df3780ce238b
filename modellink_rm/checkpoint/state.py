"""What megatron-core's distributed checkpoints hold of a run: its tensors described, and taken over again."""

from collections.abc import Sequence
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.dist_checkpointing.dict_utils import dict_list_map_inplace
from megatron.core.dist_checkpointing.mapping import ShardedObject
from megatron.core.tensor_parallel import get_cuda_rng_tracker
from torch import Tensor

from modellink_rm.adapters.lora import is_of_adapter
from modellink_rm.base.megatron_compat import (
    all_rng_states,
    allocate_optimizer_state,
    set_all_rng_states,
    single_optimizers,
)
from modellink_rm.checkpoint.by_layer import named_by_layer
from modellink_rm.checkpoint.pieces import describe_by_pieces
from modellink_rm.model.adapting import is_trained
from modellink_rm.parallel.groups import Ranks, of_every_process


def sharded_weights(
    chunks: Sequence[Any], metadata: dict[str, Any] | None = None, *, of_base: bool = False
) -> dict[str, Any]:
    """The weights by chunk; in the checkpoint a tensor has its name in the model, whoever holds it.

    Args:
        chunks: the process's stage or virtual stages, unwrapped or with gradient buffers.
        of_base: of a model with adapters, all that is not of these; by default what is trained.
    """
    found = {}
    for number, chunk in enumerate(map(_unwrapped, chunks)):
        tensors = chunk.sharded_state_dict(metadata=metadata)
        if chunk.spec.lora is not None:
            is_wanted = (lambda name: not is_of_adapter(name)) if of_base else is_trained
            tensors = {name: tensor for name, tensor in tensors.items() if is_wanted(name)}
        found[f"model{number}"] = tensors
    return found


def _unwrapped(chunk: Any) -> Any:
    return chunk.module if hasattr(chunk, "ddp_config") else chunk


def sharded_state(chunks: Sequence[Any], optimizer: Any, *, is_loading: bool) -> dict[str, Any]:
    """The weights, and the optimizer's state as parts of tensors of their shapes."""
    metadata = {
        "distrib_optim_sharding_type": "fully_reshardable",
        "chained_optim_avoid_prefix": True,
        "dp_cp_group": parallel_state.get_data_parallel_group(with_context_parallel=True),
    }
    distributed = [single for single in single_optimizers(optimizer) if _is_distributed(single)]
    for single in distributed:
        # The distributed optimizer cannot describe a state it has not allocated yet.
        if not single.optimizer.state:
            allocate_optimizer_state(single)
    step = _common_step(optimizer)
    by_layer = 0 < _unwrapped(chunks[0]).trained_share < 1
    for single in distributed:
        describe_by_pieces(single, step, by_layer=by_layer)
    weights = sharded_weights(chunks, metadata)
    state = optimizer.sharded_state_dict(weights, is_loading=is_loading, metadata=metadata)
    if step is not None:
        _name_step(state, step)
    if by_layer:
        dict_list_map_inplace(named_by_layer, state)
    return {**weights, "optimizer": state}


def _common_step(optimizer: Any) -> Tensor | None:
    """The number of AdamW's steps, of a process that knows it; None before the first. A collective.

    Where weights are frozen, a process may have nothing to update, and count no steps.
    """
    steps = [
        values["step"]
        for single in single_optimizers(optimizer)
        if not single.is_stub_optimizer
        for values in single.optimizer.state.values()
        if "step" in values
    ]
    found = [step for step in of_every_process(float(steps[0]) if steps else None) if step is not None]
    return torch.tensor(found[0]) if found else None


def _name_step(state: dict[Any, Any], step: Tensor) -> None:
    """Let the state of an optimizer that is not distributed say the step, which the first process writes."""
    for part in (state, *state.values()):
        if isinstance(part, dict) and "param_groups" in part and isinstance(part.get("state"), dict):
            part["state"].setdefault("common_step", step)


def set_optimizer(optimizer: Any, state: Any) -> None:
    """Take over the optimizer's moments from a state that was loaded; its settings stay this run's.

    A fault of megatron-core 0.16.1 with torch's AdamW is worked around: its distributed optimizer leaves all
    parameters with one shared `step` tensor, which every parameter's update then increments.
    """
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

    return isinstance(optimizer, DistributedOptimizer) and not optimizer.is_stub_optimizer


def sharded_rng(ranks: Ranks) -> ShardedObject:
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


def set_rng(state: dict[str, Any]) -> None:
    """Take over the generators' states."""
    set_all_rng_states(state["cpu"], state["device"], state["tracker"])
