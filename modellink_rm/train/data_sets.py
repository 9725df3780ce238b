"""Losses and accuracies of each data set of a mixture, in training and in evaluations."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from modellink_rm.base.platform import tensor_on
from modellink_rm.batching.batch import Batch
from modellink_rm.dataset.blend import Part
from modellink_rm.dataset.example import RowName
from modellink_rm.dataset.mixture import names_of
from modellink_rm.objective.objective import ObjectiveResult
from modellink_rm.train.sums import Sums

_SUMS = ("examples", "counted", "loss", "with_credit", "credit")
DataSetMetrics = Mapping[str, Mapping[str, float]]  # by the name of the data set


@dataclass(frozen=True)
class ExampleFigures:
    """Figures of the n examples of a micro-batch.

    Attributes:
        names: of the examples.
        losses: float32 [n].
        credits: float64 [n], or None; see `ObjectiveResult`.
        counts: float64 [n], or None; likewise.
    """

    names: tuple[RowName, ...]
    losses: Tensor
    credits: Tensor | None
    counts: Tensor | None = None

    @classmethod
    def of(cls, result: ObjectiveResult, batch: Batch) -> "ExampleFigures":
        """The figures of a micro-batch's examples, without their gradients."""
        # What a step weighs depends on the global batch, and a mean over steps does not.
        losses = result.losses.detach() / batch.targets.step_weight
        return cls(batch.names, losses, result.credits, result.counts)


class DataSets:
    """The data sets of a part, whose figures are told apart where there are several.

    Attributes:
        names: of the data sets, for metrics; () for a single one.
    """

    def __init__(self, part: Part) -> None:
        prefixes = [str(one.dataset.prefix) for one in part.datasets]
        # The names among all of them, so that a part without rows of some calls the others no other way.
        named = zip(names_of(prefixes), prefixes, part.datasets, strict=True)
        kept = [(name, prefix) for name, prefix, one in named if len(one.rows)]
        self.names: tuple[str, ...] = tuple(name for name, _ in kept) if len(kept) > 1 else ()
        self._numbers = {prefix: number for number, (_, prefix) in enumerate(kept)}

    def no_sums(self, device: torch.device) -> Sums:
        """Sums of zeros."""
        return self._sums(torch.zeros(len(self.names), len(_SUMS), dtype=torch.float64, device=device))

    def sums(self, figures: Iterable[ExampleFigures], device: torch.device) -> Sums:
        """The sums over the examples of micro-batches; waits for nothing."""
        total = self.no_sums(device)
        if not self.names:
            return total
        for one in figures:
            numbers = np.array([self._numbers[name.dataset] for name in one.names], np.int64)
            total += self._sums(_by_number(one, tensor_on(device, numbers), len(self.names)))
        return total

    def metrics(self, total: Mapping[str, float]) -> dict[str, dict[str, float]]:
        """Mean loss, accuracy and number of the examples of each data set that has some, by name.

        Of process rewards, loss and accuracy are means over labelled steps.
        """
        found = {}
        for name in self.names:
            examples, counted, loss, with_credit, credit = (total[f"{name}/{one}"] for one in _SUMS)
            if counted:
                accuracy = {"accuracy": credit / with_credit} if with_credit else {}
                found[name] = {"loss": loss / counted, **accuracy, "examples": round(examples)}
        return found

    def _sums(self, values: Tensor) -> Sums:
        """Named sums from values [data sets, sums]."""
        names = tuple(f"{name}/{one}" for name in self.names for one in _SUMS)
        return Sums(names=names, values=values.reshape(-1))


def _by_number(figures: ExampleFigures, numbers: Tensor, num_data_sets: int) -> Tensor:
    """The sums [num_data_sets, 5] float64 of examples [n] of the data sets `numbers` [n]."""
    losses = figures.losses.double()
    ones, zeros = torch.ones_like(losses), torch.zeros_like(losses)
    counts = ones if figures.counts is None else figures.counts
    with_credit, credits = zeros, zeros
    if figures.credits is not None:
        with_credit = counts.masked_fill(figures.credits.isnan(), 0.0)
        credits = figures.credits.nan_to_num(nan=0.0)
    columns = (ones, counts, losses, with_credit, credits)
    is_of = numbers == torch.arange(num_data_sets, device=numbers.device)[:, None]
    # Not a product with ones and zeros: what is not finite in one data set stays there.
    return torch.stack(columns, dim=-1).masked_fill(~is_of[..., None], 0.0).sum(dim=1)
