"""One optimizer step over a global batch."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from megatron.core.optimizer import MegatronOptimizer
from torch import Tensor

from modellink_rm.base.errors import AgreedError, listed
from modellink_rm.base.megatron_compat import scale_tensors, single_optimizers
from modellink_rm.batching.batch import Batch
from modellink_rm.dataset.example import RowName
from modellink_rm.model.flops import training_flops
from modellink_rm.model.shape import ModelShape
from modellink_rm.objective.length_penalty import LengthPenalty
from modellink_rm.objective.objective import Objective
from modellink_rm.parallel.groups import Ranks
from modellink_rm.parallel.pipeline import forward_backward
from modellink_rm.train.data_sets import DataSets, ExampleFigures
from modellink_rm.train.length_moments import with_moments
from modellink_rm.train.optimizer import TrainState, gradient_norm_groups, is_of_experts
from modellink_rm.train.routers import take_router_sums
from modellink_rm.train.sums import Sums, no_sums, sums_of

# As in the engine's clipping (megatron-core 0.16.1, optimizer/clip_grads.py).
_CLIP_EPSILON = 1e-6


@dataclass(frozen=True)
class StepResult:
    """The results of a step, for the log.

    Attributes:
        sums: over this process's micro-batches; zeros if it scores none.
        grad_norm: of the whole gradient, before clipping.
    """

    sums: Sums
    grad_norm: float


@dataclass(frozen=True, kw_only=True)
class StepLoss:
    """An objective as the loss function of the pipeline.

    Attributes:
        counts_examples: True only on the first context-parallel rank: each rank holds all scores, and the
            gradient of those at its own tokens, but each example must be counted once.
    """

    objective: Objective
    counts_examples: bool = True

    def __call__(self, scores: Tensor, batch: Batch) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """The sum of losses, the number of examples, and results to collect, from scores [num_scores].

        The results are `sums`, and `losses` [n] float32 with `names`, to name examples whose loss is not
        finite.
        """
        result = self.objective(scores, batch.targets)
        detached = result.losses.detach()
        kept = {
            "sums": sums_of(result, batch),
            "losses": detached,
            "names": batch.names,
            "figures": ExampleFigures.of(result, batch),
        }
        # A loss that is not finite makes the gradient NaN, so one check of the gradient norm covers
        # both without further communication.
        poison = torch.where(torch.isfinite(detached), 1.0, torch.nan)
        num_counted = batch.num_examples if self.counts_examples else 0
        # Filled on the device: torch.tensor would copy from the host and wait for it.
        count = torch.full((), num_counted, dtype=torch.int, device=scores.device)
        return (result.losses * poison).sum(), count, kept


class NonFiniteError(AgreedError):
    """A loss or gradient that is not finite; nothing was updated."""


def train_step(
    state: TrainState,
    micro_batches: Sequence[Batch],
    loss: StepLoss,
    *,
    num_examples: int,
    ranks: Ranks,
    device: torch.device,
    before_update: Callable[[], object] = lambda: None,
    data_sets: DataSets | None = None,
) -> StepResult:
    """Compute the gradient of the mean over the global batch and update the weights.

    Args:
        micro_batches: of this replica, in host memory; at least one.
        num_examples: examples of the global batch, over all replicas.
        device: to which each micro-batch is moved when the pipeline takes it.
        before_update: called before anything changes that a checkpoint holds.
        data_sets: whose figures are added to the sums.

    Raises:
        NonFiniteError: on every process, before any weight changes.
    """
    for chunk in state.model:
        chunk.zero_grad_buffer()
    state.optimizer.zero_grad()
    if isinstance(loss.objective, LengthPenalty):
        objective = with_moments(loss.objective, state.model, micro_batches, ranks=ranks, device=device)
        loss = dataclasses.replace(loss, objective=objective)
    on_device = (batch.to(device) for batch in micro_batches)
    kept = forward_backward(
        state.model, on_device, loss, num_micro_batches=len(micro_batches), num_examples=num_examples
    )
    state.optimizer.prepare_grads()
    shape: ModelShape = state.model[0].module.spec.shape
    grad_norm = gradient_norm(state.optimizer, has_experts=shape.experts is not None)
    if not math.isfinite(grad_norm):
        raise NonFiniteError(_describe_non_finite(state, kept, ranks))
    clip_gradients(state.optimizer, grad_norm)
    before_update()
    state.optimizer.step_with_ready_grads()
    state.scheduler.step(increment=num_examples)
    state.iteration += 1
    state.consumed_samples += num_examples
    sums = no_sums(loss.objective, device)
    if ranks.reports_scores:
        model = state.model[0].module
        flops = sum(
            training_flops(
                shape,
                batch,
                trained_share=model.trained_share,
                trains_weights=model.spec.lora is None,
            )
            for batch in micro_batches
        )
        sums = _total(kept).plus("flops", flops)
    sums = sums.joined(take_router_sums(state.model, ranks, device))
    if data_sets is not None:
        figures = [entry["figures"] for entry in kept] if ranks.reports_scores else []
        sums = sums.joined(data_sets.sums(figures, device))
    return StepResult(sums=sums, grad_norm=float(grad_norm))


@torch.no_grad()
def gradient_norm(optimizer: MegatronOptimizer, *, has_experts: bool = False) -> float:
    """Norm of the whole gradient; the one number that a step reads from the device.

    It is what the engine's `get_grad_norm` returns, which without apex reads every parameter's, and which
    cannot be had where experts are divided over other processes than the rest of the model.

    Args:
        has_experts: whether the model has experts, in this stage or another.
    """
    groups = gradient_norm_groups(optimizer, has_experts=has_experts)
    squared = torch.zeros(len(groups), device=torch.cuda.current_device())
    for single in single_optimizers(optimizer):
        gradients = single.get_main_grads_for_grad_norm()
        if gradients:
            squared[int(has_experts and is_of_experts(single))] += torch.nn.utils.get_total_norm(
                gradients
            ).square()
    for number, group in enumerate(groups):
        torch.distributed.all_reduce(squared[number], group=group)
    return math.sqrt(squared.sum().item())


def clip_gradients(optimizer: MegatronOptimizer, grad_norm: float) -> None:
    """Scale the gradient so that its norm is at most the optimizer's `clip_grad` (0: do not)."""
    for single in single_optimizers(optimizer):
        parameters = [] if single.is_stub_optimizer else single.get_parameters()
        max_norm = single.config.clip_grad
        if parameters and max_norm > 0:
            gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
            factor = max_norm / (grad_norm + _CLIP_EPSILON)
            if factor < 1 and gradients:
                scale_tensors(gradients, factor)


def _total(kept: Sequence[dict[str, Any]]) -> Sums:
    """The sums of all micro-batches."""
    parts: list[Sums] = [entry["sums"] for entry in kept]
    return Sums(names=parts[0].names, values=torch.stack([part.values for part in parts]).sum(dim=0))


def _describe_non_finite(state: TrainState, kept: Sequence[dict[str, Any]], ranks: Ranks) -> str:
    """One line that names the iteration, the ranks and the samples; a collective over all processes."""
    samples: list[RowName] = [
        name
        for entry in kept
        for name, loss in zip(entry["names"], entry["losses"].tolist(), strict=True)
        if not math.isfinite(loss)
    ]
    parameters = [
        name
        for chunk in state.model
        for name, parameter in chunk.module.global_parameters()
        if parameter.requires_grad and not torch.isfinite(parameter.main_grad).all()
    ]
    found: list[Any] = [None] * ranks.world_size
    names = [name for entry in kept for name in entry["names"]]
    torch.distributed.all_gather_object(found, (samples, parameters[:1], names))
    # Of all processes: stages before the last keep none, and replicas have added up their gradients.
    batch = {name for *_, of_rank in found for name in of_rank}
    return non_finite_message(state.iteration + 1, [(bad, first) for bad, first, _ in found], batch)


def non_finite_message(
    iteration: int, found: Sequence[tuple[list[RowName], list[str]]], batch: Iterable[RowName]
) -> str:
    """Why the norm of a gradient is not finite, in one line.

    Args:
        found: of each rank, its samples whose loss is not finite, and its first parameter whose gradient is
            not.
        batch: samples of the step.
    """
    bad_losses = {name for bad, _ in found for name in bad}
    if bad_losses:
        where = [rank for rank, (bad, _) in enumerate(found) if bad]
        return (
            f"iteration {iteration}: the loss of {_rows(bad_losses)} is not finite "
            f"(rank {listed(where)}); no weight was updated"
        )
    where = [rank for rank, (_, names) in enumerate(found) if names]
    names = sorted({name for _, names in found for name in names})
    what, place = "the gradient", f"rank {listed(where)}; first parameter {listed(names)}; "
    if not names:
        what, place = "the norm of a finite gradient", ""
    return (
        f"iteration {iteration}: {what} is not finite while every loss is ({place}{_rows(batch)}); "
        "no weight was updated"
    )


def _rows(names: Iterable[RowName]) -> str:
    """ "rows 3, 5 of data/a and rows 0 of data/b"."""
    by_dataset = itertools.groupby(sorted(set(names)), key=lambda name: name.dataset)
    return " and ".join(
        f"rows {listed([name.row for name in group])} of {dataset}" for dataset, group in by_dataset
    )
