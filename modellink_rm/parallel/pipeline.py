"""Run micro-batches through the model's stages, with the engine's schedules."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from megatron.core.pipeline_parallel import get_forward_backward_func
from torch import Tensor

# (scores, batch) -> (sum of losses, number of examples, results to collect)
LossFunction = Callable[[Tensor, Any], tuple[Tensor, Tensor, dict[str, Any]]]


def forward_backward(
    model: Sequence[Any], batches: Iterator[Any], loss_function: LossFunction, *, num_micro_batches: int
) -> list[dict[str, Any]]:
    """Run forward and backward passes of the micro-batches; gradients accumulate in the model.

    With `calculate_per_token_loss` the engine divides the summed gradient by the number of examples
    in all micro-batches and data-parallel replicas. So it is the gradient of the mean over the global
    batch, however that was divided.

    Args:
        model: this process's stage, or its virtual stages.
        batches: micro-batches of this replica, on this device.
        num_micro_batches: how many of them, a multiple of `micro_batches_multiple_of(model)` above 0.

    Returns:
        The results of `loss_function` for each micro-batch, on the last stage; empty on the others.
    """

    def forward_step(iterator: Iterator[Any], chunk: torch.nn.Module) -> tuple[Tensor, Any]:
        batch = next(iterator)
        return chunk(batch), lambda scores: loss_function(scores, batch)

    kept: list[dict[str, Any]] = _run(forward_step, model, batches, num_micro_batches, forward_only=False)
    return kept


@torch.no_grad()
def forward_scores(
    model: Sequence[Any], batches: Iterator[Any], *, num_micro_batches: int
) -> list[tuple[Tensor, Any]]:
    """The pairs (scores [num_responses] in float32, micro-batch) on the last stage; empty on the others.

    Args:
        model: this process's stage, or its virtual stages.
        batches: micro-batches of this replica, on this device.
        num_micro_batches: how many of them, as for `forward_backward`.
    """

    def forward_step(iterator: Iterator[Any], chunk: torch.nn.Module) -> tuple[Tensor, Any]:
        batch = next(iterator)
        return chunk(batch), lambda scores, non_loss_data: (scores, batch)

    kept: list[tuple[Tensor, Any]] = _run(forward_step, model, batches, num_micro_batches, forward_only=True)
    return kept


def micro_batches_multiple_of(model: Sequence[Any]) -> int:
    """The number of micro-batches must be a multiple of this.

    A process with several virtual stages runs as many micro-batches as the pipeline has stages through one
    of them, then the same ones through the next.
    """
    return int(model[0].config.microbatch_group_size_per_vp_stage) if len(model) > 1 else 1


def _run(
    forward_step: Any,
    model: Sequence[Any],
    batches: Iterator[Any],
    num_micro_batches: int,
    *,
    forward_only: bool,
) -> Any:
    config = model[0].config
    schedule = get_forward_backward_func(
        config.pipeline_model_parallel_size, config.virtual_pipeline_model_parallel_size
    )
    return schedule(
        forward_step_func=forward_step,
        data_iterator=list(itertools.tee(batches, len(model))),  # every virtual stage takes all of them
        model=list(model),
        num_microbatches=num_micro_batches,
        seq_length=1,  # unused: stages exchange the shape of every micro-batch
        micro_batch_size=1,  # a flat sequence [t, 1, h]
        forward_only=forward_only,
        collect_non_loss_data=forward_only,
    )
