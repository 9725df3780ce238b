"""One optimizer step over a global batch."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.optimizer.clip_grads import clip_grad_by_total_norm_fp32
from torch import Tensor

from modellink_rm.batching.batch import Batch
from modellink_rm.objective.metrics import NUM_SUMS
from modellink_rm.parallel.groups import Ranks
from modellink_rm.parallel.pipeline import LossFunction, forward_backward
from modellink_rm.train.optimizer import TrainState


@dataclass(frozen=True)
class StepResult:
    """What a step leaves for the log.

    Attributes:
        sums: [NUM_SUMS] float64, of this process's micro-batches; zeros where it scores none.
        grad_norm: of the whole gradient, before clipping.
    """

    sums: Tensor
    grad_norm: float


class NonFiniteError(RuntimeError):
    """A loss or gradient that is not finite; nothing was updated."""


def train_step(
    state: TrainState,
    batches: Iterator[Batch],
    objective: LossFunction,
    *,
    num_micro_batches: int,
    num_examples: int,
    ranks: Ranks,
) -> StepResult:
    """Compute the gradient of the mean over the global batch and update the weights.

    Args:
        batches: micro-batches of this replica, on this device, made as they are taken.
        num_micro_batches: how many of them, at least one.
        num_examples: examples of the global batch, over all replicas.

    Raises:
        NonFiniteError: on every process, before any weight changes.
    """
    for chunk in state.model:
        chunk.zero_grad_buffer()
    state.optimizer.zero_grad()
    kept = forward_backward(state.model, batches, objective, num_micro_batches=num_micro_batches)
    state.optimizer.prepare_grads()
    grad_norm = gradient_norm(state.optimizer)
    if not math.isfinite(grad_norm):
        raise NonFiniteError(_describe_non_finite(state, kept, ranks))
    clip_gradients(state.optimizer, grad_norm)
    state.optimizer.step_with_ready_grads()
    state.scheduler.step(increment=num_examples)
    state.iteration += 1
    state.consumed_samples += num_examples
    return StepResult(
        sums=sum_metrics(kept, ranks, torch.device(torch.cuda.current_device())), grad_norm=float(grad_norm)
    )


@torch.no_grad()
def gradient_norm(optimizer: MegatronOptimizer) -> float:
    """Norm of the whole gradient; the one number that a step reads from the device.

    It is what the engine's `get_grad_norm` returns, which without apex reads every parameter's.
    """
    parts = getattr(optimizer, "chained_optimizers", [optimizer])
    gradients = [gradient for part in parts for gradient in part.get_main_grads_for_grad_norm()]
    squared = torch.zeros((), device=torch.cuda.current_device())
    if gradients:
        squared += torch.nn.utils.get_total_norm(gradients).square()
    torch.distributed.all_reduce(squared, group=optimizer.get_grad_stats_parallel_group())
    return math.sqrt(squared.item())


def clip_gradients(optimizer: MegatronOptimizer, grad_norm: float) -> None:
    """Scale the gradient so that its norm is at most the optimizer's `clip_grad` (0: do not)."""
    for part in getattr(optimizer, "chained_optimizers", [optimizer]):
        parameters = [] if part.is_stub_optimizer else part.get_parameters()
        if parameters and part.config.clip_grad > 0:
            clip_grad_by_total_norm_fp32(parameters, max_norm=part.config.clip_grad, total_norm=grad_norm)


def sum_metrics(kept: Sequence[dict[str, Any]], ranks: Ranks, device: torch.device) -> Tensor:
    """Sums [NUM_SUMS] over micro-batches; zeros on a process whose scores are not counted."""
    if not ranks.reports_scores or not kept:
        return torch.zeros(NUM_SUMS, dtype=torch.float64, device=device)
    return torch.stack([entry["sums"] for entry in kept]).sum(dim=0)


def _describe_non_finite(state: TrainState, kept: Sequence[dict[str, Any]], ranks: Ranks) -> str:
    """One line that names the iteration, the ranks and the samples; a collective over all processes."""
    samples = [
        index
        for entry in kept
        for index, loss in zip(entry["indices"], entry["losses"].tolist(), strict=True)
        if not math.isfinite(loss)
    ]
    parameters = [
        name
        for chunk in state.model
        for name, parameter in chunk.module.global_parameters()
        if parameter.requires_grad and not torch.isfinite(parameter.main_grad).all()
    ]
    found: list[Any] = [None] * ranks.world_size
    torch.distributed.all_gather_object(found, (samples, parameters[:1]))
    iteration = state.iteration + 1
    bad_losses = sorted({index for indices, _ in found for index in indices})
    if bad_losses:
        where = [rank for rank, (indices, _) in enumerate(found) if indices]
        return (
            f"iteration {iteration}: the loss of samples {_some(bad_losses)} is not finite "
            f"(rank {_some(where)}); no weight was updated"
        )
    where = [rank for rank, (_, names) in enumerate(found) if names]
    names = sorted({name for _, names in found for name in names})
    batch = sorted({index for entry in kept for index in entry["indices"]})
    return (
        f"iteration {iteration}: the gradient is not finite while every loss is "
        f"(rank {_some(where)}; first parameter {_some(names)}; samples {_some(batch)}); "
        "no weight was updated"
    )


def _some(values: Sequence[Any]) -> str:
    shown = ", ".join(str(value) for value in values[:8])
    return shown + (f" and {len(values) - 8} more" if len(values) > 8 else "")
