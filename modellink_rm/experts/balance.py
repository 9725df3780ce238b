"""The balance of a micro-batch's experts: what the routers chose, and the losses that depend on it.

The load-balancing loss is transformers' (5.23, models/mixtral, `load_balancing_loss_func`; Fedus et al. 2021,
arXiv 2101.03961, equations 4 to 6) of each example's responses, each with its prompt, padding left out:

    E * sum over the experts of (choices of the expert / tokens) * (sum of its probabilities / tokens)

where choices, probabilities and tokens are those of all sparse layers together. The z-loss is the mean of
logsumexp(logits)^2 (Zoph et al. 2022, arXiv 2202.08906, equation 5). Both are computed for each example and
averaged over the global batch, so they depend neither on packing nor on the division over processes; a
prompt that is stored once for several responses counts as often as it has responses.

The choices have no gradient, so the gradient of a layer's probabilities needs only the choices of the other
layers. Between pipeline stages the sums so far travel with the hidden states, as further rows, and the
choices of all stages come back as the gradient of these rows.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modellink_rm.base.platform import tensor_on
from modellink_rm.batching.batch import Batch
from modellink_rm.experts.shape import Experts


@dataclass(frozen=True)
class RoutedRows:
    """The rows that a router sees.

    Attributes:
        examples: int64 [n], index of each row's example; one past the last example for padding.
        weights: float32 [n], responses that the row belongs to; 0 for padding.
    """

    examples: Tensor
    weights: Tensor

    def at(self, rows: Tensor) -> "RoutedRows":
        """Some of these rows."""
        return RoutedRows(self.examples[rows], self.weights[rows])

    def share(self, *, rank: int, size: int) -> "RoutedRows":
        """The contiguous part that a process holds under sequence parallelism."""
        length = len(self.examples) // size
        held = slice(rank * length, (rank + 1) * length)
        return RoutedRows(self.examples[held], self.weights[held])


def routed_rows(batch: Batch) -> RoutedRows:
    """The tokens that this context-parallel process holds, on its device."""
    segments, device = batch.segments, batch.input_ids.device
    lengths = [segment.end - segment.start for segment in segments]
    examples = [segment.example if segment.example >= 0 else batch.num_examples for segment in segments]
    of_tokens = np.repeat(np.array(examples, dtype=np.int64), lengths)
    weights = np.repeat(np.array([segment.num_responses for segment in segments], dtype=np.float32), lengths)

    def held(values: np.ndarray) -> Tensor:
        return tensor_on(device, np.concatenate([values[start:end] for start, end in batch.ranges]))

    return RoutedRows(held(of_tokens), held(weights))


class RouterTally:
    """What the routers of one micro-batch chose in this stage, and before it.

    Attributes:
        rows: all tokens of this context-parallel process.
        loads: layer number, from 0 -> float32 [E], choices of each expert by this process's rows.
        sums: float32 [n + 1, 2 E + 1]: for each of n examples, and for padding, the choices of each expert,
            the sums of its probabilities, and the sum of logsumexp(logits)^2.
        choices: float32 [n + 1, E], those of all stages; None until they are known.
    """

    def __init__(self, experts: Experts, batch: Batch, rows: RoutedRows, *, num_layers: int) -> None:
        """No choices yet.

        Args:
            num_layers: layers with experts, over the whole model.
        """
        self.experts = experts
        self.rows = rows
        self.loads: dict[int, Tensor] = {}
        device = rows.weights.device
        self.sums = torch.zeros(batch.num_examples + 1, _sums_per_example(experts), device=device)
        self.choices: Tensor | None = None
        num_tokens = np.ones(batch.num_examples + 1, dtype=np.float32)
        for example in range(batch.num_examples):
            num_tokens[example] = num_layers * sum(
                segment.num_responses * (segment.end - segment.start)
                for segment in batch.segments
                if segment.example == example
            )
        self.num_tokens = tensor_on(device, num_tokens)

    @torch.no_grad()
    def record(
        self, layer: int, rows: RoutedRows, *, probabilities: Tensor, chosen: Tensor, squares: Tensor
    ) -> None:
        """Add a layer's choices; a second time, when activations are recomputed, nothing is added.

        Args:
            probabilities: float32 [r, E].
            chosen: int64 [r, k].
            squares: float32 [r], logsumexp(logits)^2.
        """
        if layer in self.loads:
            return
        choices = torch.zeros_like(probabilities).scatter_(1, chosen, 1.0)
        self.loads[layer] = (choices * (rows.weights > 0)[:, None]).sum(dim=0)
        if self.experts.balances:
            values = torch.cat((choices, probabilities, squares[:, None]), dim=1) * rows.weights[:, None]
            self.sums = self.sums.index_add(0, rows.examples, values)

    def finish(self, groups: list[Any]) -> Tensor:
        """The sums (load-balancing loss, z-loss) over the examples, float64 [2], after the last layer.

        Args:
            groups: process groups over which the tokens of the micro-batch are divided.
        """
        for group in groups:
            self.sums = self.sums.contiguous()
            torch.distributed.all_reduce(self.sums, group=group)
        number = self.experts.number
        self.choices = self.sums[:, :number]
        products = (self.choices.double() * self.sums[:, number : 2 * number]).sum(dim=1)
        balance = (number * products / self.num_tokens.double().square())[:-1].sum()
        return torch.stack((balance, (self.sums[:, -1].double() / self.num_tokens)[:-1].sum()))


def balanced(
    weights: Tensor, probabilities: Tensor, squares: Tensor, tally: RouterTally, rows: RoutedRows
) -> Tensor:
    """`weights` unchanged; in the backward pass the losses' gradients are added to the other two.

    Args:
        weights: [r, k], which the layer's output depends on.
        probabilities: float32 [r, E], of the router.
        squares: float32 [r], logsumexp(logits)^2.
    """
    result: Tensor = _Balanced.apply(weights, probabilities, squares, tally, rows)  # type: ignore[no-untyped-call]
    return result


class _Balanced(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        weights: Tensor,
        probabilities: Tensor,
        squares: Tensor,
        tally: RouterTally,
        rows: RoutedRows,
    ) -> Tensor:
        ctx.tally, ctx.rows = tally, rows
        return weights.view_as(weights)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        tally, rows, experts = ctx.tally, ctx.rows, ctx.tally.experts
        assert tally.choices is not None, "the last layer's choices are known before the backward pass"
        of_probabilities = experts.number * tally.choices / tally.num_tokens.square()[:, None]
        return (
            gradient,
            experts.aux_loss_coef * of_probabilities[rows.examples] * rows.weights[:, None],
            experts.z_loss_coef * rows.weights / tally.num_tokens[rows.examples],
            None,
            None,
        )


def with_sums(hidden_states: Tensor, tally: RouterTally) -> Tensor:
    """Hidden states [t, 1, h] and the tally's sums as further rows, for the next stage."""
    states: Tensor = _Sent.apply(hidden_states, tally)  # type: ignore[no-untyped-call]
    return states


def without_sums(states: Tensor, tally: RouterTally) -> Tensor:
    """Hidden states [t, 1, h] of what `with_sums` returned; the sums are kept in the tally."""
    hidden_states: Tensor = _Received.apply(states, tally)  # type: ignore[no-untyped-call]
    return hidden_states


class _Sent(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_states: Tensor, tally: RouterTally) -> Tensor:
        ctx.tally, ctx.length = tally, len(hidden_states)
        return torch.cat((hidden_states, _as_rows(tally.sums, hidden_states)))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        shape = (len(ctx.tally.sums), ctx.tally.experts.number)
        ctx.tally.choices = _from_rows(gradient[ctx.length :], shape)
        return gradient[: ctx.length], None


class _Received(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, tally: RouterTally) -> Tensor:
        ctx.tally = tally
        length = len(states) - len(_as_rows(tally.sums, states))
        tally.sums = _from_rows(states[length:], tally.sums.shape)
        return states[:length].clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        choices = torch.zeros_like(ctx.tally.sums)
        choices.view(-1)[: ctx.tally.choices.numel()] = ctx.tally.choices.flatten()
        return torch.cat((gradient, _as_rows(choices, gradient))), None


def num_rows_of_sums(experts: Experts, num_examples: int, *, hidden_size: int, element_size: int) -> int:
    """The rows that `with_sums` adds to hidden states, of elements of so many bytes."""
    num_bytes = (num_examples + 1) * _sums_per_example(experts) * torch.float32.itemsize
    return -(-num_bytes // (hidden_size * element_size))


def _sums_per_example(experts: Experts) -> int:
    return 2 * experts.number + 1


def _as_rows(values: Tensor, like: Tensor) -> Tensor:
    """The bits of float32 values as rows [r, 1, h] of another dtype, which nothing may compute with."""
    bits = values.contiguous().flatten().view(like.dtype)
    width = like.shape[-1]
    return torch.nn.functional.pad(bits, (0, -len(bits) % width)).view(-1, 1, width)


def _from_rows(rows: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The float32 values of `shape` that `_as_rows` turned into rows."""
    return (
        rows.clone(memory_format=torch.contiguous_format)
        .flatten()
        .view(torch.float32)[: torch.Size(shape).numel()]
        .view(shape)
    )


@dataclass(frozen=True)
class Routing:
    """The tally of a micro-batch, and the rows that a layer's router sees."""

    tally: RouterTally
    rows: RoutedRows

    def at(self, rows: Tensor) -> "Routing":
        """The same for a layer that sees only some of the tokens, whole on every tensor-parallel rank."""
        return Routing(self.tally, self.tally.rows.at(rows))
