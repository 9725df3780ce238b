"""Run the micro-batches of one step through the model's stages, with the engine's schedules."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from megatron.core.pipeline_parallel import get_forward_backward_func
from torch import Tensor

# (scores, batch) -> (sum over examples, number of examples, what is kept of the micro-batch)
LossFunction = Callable[[Tensor, Any], tuple[Tensor, Tensor, dict[str, Any]]]


def forward_backward(
    model: torch.nn.Module, batches: Iterator[Any], loss_function: LossFunction, *, num_micro_batches: int
) -> list[dict[str, Any]]:
    """Forward and backward passes of the micro-batches; gradients are left in the model.

    With `calculate_per_token_loss` the engine divides the summed gradient by the number of
    examples summed over micro-batches and data-parallel replicas: the gradient is that of the mean
    over the global batch, however it was divided.

    Args:
        batches: micro-batches of this replica, on this device.
        num_micro_batches: how many of them, at least one.

    Returns:
        What `loss_function` kept of each micro-batch, on the last stage; elsewhere nothing.
    """

    def forward_step(iterator: Iterator[Any], chunk: torch.nn.Module) -> tuple[Tensor, Any]:
        batch = next(iterator)
        return chunk(batch), lambda scores: loss_function(scores, batch)

    kept: list[dict[str, Any]] = _run(forward_step, model, batches, num_micro_batches, forward_only=False)
    return kept


@torch.no_grad()
def forward_scores(model: torch.nn.Module, batch: Any) -> Tensor | None:
    """Scores of one micro-batch [num_responses], float32, on the last stage; None elsewhere."""

    def forward_step(iterator: Iterator[Any], chunk: torch.nn.Module) -> tuple[Tensor, Any]:
        output = chunk(next(iterator))
        return output, lambda scores, non_loss_data: scores

    kept = _run(forward_step, model, iter([batch]), 1, forward_only=True)
    return kept[0] if kept else None


def _run(
    forward_step: Any,
    model: torch.nn.Module,
    batches: Iterator[Any],
    num_micro_batches: int,
    *,
    forward_only: bool,
) -> Any:
    return get_forward_backward_func()(
        forward_step_func=forward_step,
        data_iterator=batches,
        model=model,
        num_microbatches=num_micro_batches,
        seq_length=1,  # unused: stages exchange the shape of every micro-batch
        micro_batch_size=1,  # a flat sequence [t, 1, h]
        forward_only=forward_only,
        collect_non_loss_data=forward_only,
    )
