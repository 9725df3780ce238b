"""Run micro-batches through the model's stages, with the engine's schedules."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import megatron.core.transformer.multi_token_prediction  # noqa: F401  # see below
import torch
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.pipeline_parallel.schedules import get_schedule_table
from torch import Tensor

from modellink_rm.base.megatron_compat import Shape, communicator_of_known_shapes
from modellink_rm.parallel.groups import current_ranks, engine_groups

# The schedules import multi_token_prediction in their first pass (megatron-core 0.16, schedules.py,
# forward_step), when a server may have no open file left for it.

# (scores, batch) -> (sum of losses, number of examples, results to collect)
LossFunction = Callable[[Tensor, Any], tuple[Tensor, Tensor, dict[str, Any]]]


def forward_backward(
    model: Sequence[Any],
    batches: Iterator[Any],
    loss_function: LossFunction,
    *,
    num_micro_batches: int,
    num_examples: int,
) -> list[dict[str, Any]]:
    """Run forward and backward passes of the micro-batches; gradients accumulate in the model.

    The summed gradient is divided by the number of examples in the global batch. So it is the gradient of
    the mean over the global batch, however that was divided.

    Args:
        model: this process's stage, or its virtual stages.
        batches: micro-batches of this replica, on this device.
        num_micro_batches: how many of them, a multiple of `micro_batches_multiple_of(model)` above 0.
        num_examples: of all replicas' micro-batches.

    Returns:
        The results of `loss_function` for each micro-batch, on the last stage; empty on the others.
    """

    def forward_step(iterator: Iterator[Any], chunk: torch.nn.Module) -> tuple[Tensor, Any]:
        batch = next(iterator)
        return chunk(batch), lambda scores: loss_function(scores, batch)

    kept: list[dict[str, Any]] = _run(forward_step, model, batches, num_micro_batches, forward_only=False)
    for chunk in model:
        chunk.scale_gradients(1 / num_examples)
    return kept


@torch.no_grad()
def forward_scores(
    model: Sequence[Any], batches: Iterator[Any], *, num_micro_batches: int
) -> list[tuple[Tensor, Any]]:
    """The pairs (scores [num_scores] in float32, micro-batch) on the last stage; empty on the others.

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
    has_stages = config.pipeline_model_parallel_size > 1
    # Every virtual stage takes all of them, and so do the messages between stages, for their shapes.
    copies = list(itertools.tee(batches, len(model) + has_stages))
    messages = _groups_and_messages(model, copies.pop(), num_micro_batches) if has_stages else {}
    return schedule(
        forward_step_func=forward_step,
        data_iterator=copies,
        model=list(model),
        num_microbatches=num_micro_batches,
        seq_length=1,  # unused: the shape of every micro-batch is known
        micro_batch_size=1,  # a flat sequence [t, 1, h]
        forward_only=forward_only,
        collect_non_loss_data=forward_only,
        **messages,
    )


def _groups_and_messages(
    model: Sequence[Any], batches: Iterator[Any], num_micro_batches: int
) -> dict[str, Any]:
    """The schedule's arguments for messages between stages whose shapes are not exchanged."""
    ranks, groups = current_ranks(), engine_groups()
    shapes = _Shapes(model[0], batches)
    numbers = [number for number, chunk in _order(model, num_micro_batches) if chunk > 0]
    first_too = [number for number, _ in _order(model, num_micro_batches)]
    # What the first chunk of the first stage computes comes from no other one; so with gradients at the end.
    of_states = numbers if ranks.is_first_stage else first_too
    of_gradients = numbers if ranks.is_last_stage else first_too
    communicator = communicator_of_known_shapes(
        groups.pp,
        model[0].config,
        from_previous=map(shapes.of, of_states),
        from_next=map(shapes.of, of_gradients),
    )
    return {"p2p_communicator": communicator, "pg_collection": groups}


def _order(model: Sequence[Any], num_micro_batches: int) -> list[tuple[int, int]]:
    """The order in which a process computes: numbers of micro-batch and chunk (backward from the last)."""
    if len(model) == 1:
        return [(number, 0) for number in range(num_micro_batches)]
    table: list[tuple[int, int]] = get_schedule_table(
        num_micro_batches, len(model), micro_batches_multiple_of(model)
    )
    return table


class _Shapes:
    """The shapes of the hidden states of a step's micro-batches, which are read ahead where one is wanted."""

    def __init__(self, chunk: Any, batches: Iterator[Any]) -> None:
        unwrapped = getattr(chunk, "module", chunk)  # without the engine's gradient buffers
        self._rest = map(unwrapped.sent_shape, batches)
        self._known: list[Shape] = []

    def of(self, number: int) -> Shape:
        """The shape of a micro-batch's hidden states, and of their gradient."""
        while len(self._known) <= number:
            self._known.append(next(self._rest))
        return self._known[number]
