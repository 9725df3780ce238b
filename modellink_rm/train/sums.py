"""Sums over examples, which add up over micro-batches, steps and processes."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from modellink_rm.batching.batch import Batch
from modellink_rm.objective.objective import Objective, ObjectiveResult

# The sums of every objective; each one's own follow.
_COMMON = ("examples", "loss", "tokens", "computed", "padding", "truncated", "flops")


@dataclass(frozen=True, kw_only=True)
class Sums:
    """Named sums, in an order that every process has.

    Attributes:
        values: float64 [len(names)].
    """

    names: tuple[str, ...]
    values: Tensor

    def __add__(self, other: "Sums") -> "Sums":
        assert self.names == other.names, "sums of two objectives"
        return Sums(names=self.names, values=self.values + other.values)

    def joined(self, other: "Sums") -> "Sums":
        """These sums and others, of other names."""
        return Sums(names=self.names + other.names, values=torch.cat((self.values, other.values)))

    def plus(self, name: str, value: float) -> "Sums":
        """These sums, with `value` added to the one of that name."""
        values = self.values.clone()
        values[self.names.index(name)] += value
        return Sums(names=self.names, values=values)

    def over_processes(self) -> dict[str, float]:
        """The sums over every process, by name; a collective over all of them that waits for the device."""
        total = sum_over_processes(self.values)
        return dict(zip(self.names, total.tolist(), strict=True))


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The reported figures of some examples.

    Attributes:
        metrics: "loss", the mean over the examples, and then the objective's.
        num_tokens: tokens of all examples, the prompt counted for each response.
        num_computed_tokens: tokens that the model computed, a shared prompt once.
        num_padding: tokens added so that processes that share a sequence get equal parts of it.
        num_truncated: examples that tokens were cut from.
        flops: model FLOPs of all processes together; 0 for evaluations.
    """

    metrics: dict[str, float]
    num_examples: int
    num_tokens: int
    num_computed_tokens: int
    num_padding: int
    num_truncated: int
    flops: float


def no_sums(objective: Objective, device: torch.device) -> Sums:
    """Sums of zeros, for a process that counts nothing."""
    names = (*_COMMON, *objective.sum_names)
    return Sums(names=names, values=torch.zeros(len(names), dtype=torch.float64, device=device))


def sums_of(result: ObjectiveResult, batch: Batch) -> Sums:
    """The sums of a micro-batch; its FLOPs are added where they are counted."""
    losses = result.losses.detach()
    values = {
        # Filled on the device: torch.tensor would copy from the host and wait for it.
        name: torch.full((), value, dtype=torch.float64, device=losses.device)
        for name, value in (
            ("examples", batch.num_examples),
            ("tokens", batch.num_tokens),
            ("computed", batch.num_computed_tokens),
            ("padding", batch.num_padding),
            ("truncated", batch.num_truncated),
            ("flops", 0),
        )
    }
    values["loss"] = losses.double().sum()
    ordered = {name: values[name] for name in _COMMON} | result.sums
    return Sums(names=tuple(ordered), values=torch.stack(list(ordered.values())))


def summary_of(total: Mapping[str, float], objective: Objective) -> Summary:
    """The summary from sums over at least one example."""
    num_examples = round(total["examples"])
    return Summary(
        metrics={"loss": total["loss"] / num_examples, **objective.metrics(total, num_examples)},
        num_examples=num_examples,
        num_tokens=round(total["tokens"]),
        num_computed_tokens=round(total["computed"]),
        num_padding=round(total["padding"]),
        num_truncated=round(total["truncated"]),
        flops=total["flops"],
    )


def sum_over_processes(values: Tensor) -> Tensor:
    """The sum of the values of every process; a collective over all of them."""
    total = values.clone()
    torch.distributed.all_reduce(total)
    return total
