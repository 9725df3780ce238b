"""What a log line says of a model's routers: their losses, and how evenly they load the experts."""

import functools
from collections.abc import Mapping, Sequence

import torch
from megatron.core.distributed import DistributedDataParallel

from modellink_rm.experts.sums import NUM_ROUTER_LOSSES, num_router_sums
from modellink_rm.model.shape import ModelShape
from modellink_rm.parallel.groups import Ranks
from modellink_rm.train.sums import Sums

_AUX_LOSS, _Z_LOSS, _LOAD = "router_aux_loss", "router_z_loss", "load"


@functools.cache
def _names(shape: ModelShape) -> tuple[str, ...]:
    """Names of what `RouterSums.take` returns, in its order; none without experts."""
    if shape.experts is None:
        return ()
    experts = range(shape.experts.number)
    loads = (f"{_LOAD}/{layer}/{expert}" for layer in range(shape.num_layers) for expert in experts)
    return _AUX_LOSS, _Z_LOSS, *loads


def no_router_sums(shape: ModelShape, device: torch.device) -> Sums:
    """Sums of zeros."""
    names = _names(shape)
    return Sums(names=names, values=torch.zeros(len(names), dtype=torch.float64, device=device))


def take_router_sums(model: Sequence[DistributedDataParallel], ranks: Ranks, device: torch.device) -> Sums:
    """The sums of this process's routers over the micro-batches of a step."""
    shape: ModelShape = model[0].module.spec.shape
    if shape.experts is None:
        return no_router_sums(shape, device)
    size = num_router_sums(shape.experts, shape.num_layers)
    total = torch.zeros(size, dtype=torch.float64, device=device)
    for chunk in model:
        sums = chunk.module.router_sums.take()
        total += 0 if sums is None else sums
    if not ranks.reports_scores:  # every process of the last stage has the losses of its replica
        total[:NUM_ROUTER_LOSSES] = 0
    return Sums(names=_names(shape), values=total)


def router_metrics(total: Mapping[str, float], shape: ModelShape, num_examples: int) -> dict[str, float]:
    """The metrics of a log line, from sums over processes.

    The losses are means over the examples, where their weight is not 0. "expert_load" is the load of the most
    loaded expert of all layers over the mean of its layer: 1 if all are equally loaded.
    """
    if shape.experts is None:
        return {}
    metrics = {"expert_load": max(expert_loads(total, shape).values(), default=0.0)}
    for name, weight in ((_AUX_LOSS, shape.experts.aux_loss_coef), (_Z_LOSS, shape.experts.z_loss_coef)):
        if weight:
            metrics[name] = total[name] / num_examples
    return metrics


def expert_loads(total: Mapping[str, float], shape: ModelShape) -> dict[int, float]:
    """For each layer with experts, the load of the most loaded one over their mean."""
    if shape.experts is None:
        return {}
    number = shape.experts.number
    found = {}
    for layer in filter(shape.is_sparse, range(shape.num_layers)):
        loads = [total[f"{_LOAD}/{layer}/{expert}"] for expert in range(number)]
        found[layer] = max(loads) * number / max(sum(loads), 1.0)
    return found
