"""Objectives: from scores and targets of examples to a loss per example, and sums for metrics."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from modellink_rm.batching.targets import Targets
from modellink_rm.dataset.dataset import Dataset


@dataclass(frozen=True, kw_only=True)
class ObjectiveResult:
    """The losses of n examples, and sums for metrics.

    Attributes:
        losses: float32 [n]; the step divides their sum by the number of examples in the global batch.
        sums: float64 scalars over the examples, without gradient; keys and order are the objective's
            `sum_names`.
        credits: float64 [n], the accuracy of each example, without gradient, for the accuracy of each data
            set, NaN of one that has none; None of an objective without one.
        counts: float64 [n], the labelled steps of each example, over which its loss is a sum and its credit
            the number of hits; None where an example has one loss and one accuracy.
    """

    losses: Tensor
    sums: dict[str, Tensor]
    credits: Tensor | None = None
    counts: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Labels:
    """How a run's lines show the metrics of an objective; a metric that is in none is shown with its name.

    Attributes:
        examples: what an example is, in the plural; also in the name of the speed in metrics.jsonl.
        names: metric -> its name in lines, where that is another one.
        evaluation: cells of an evaluation's full line, in order, as formats of the metrics.
        short: metric -> its format in the short lines of a terminal, in order, after the loss.
        short_evaluation: metric -> its format at the end of an evaluation's short line.
    """

    examples: str = "examples"
    names: Mapping[str, str] = field(default_factory=dict)
    evaluation: tuple[str, ...] = ()
    short: Mapping[str, str] = field(default_factory=dict)
    short_evaluation: Mapping[str, str] = field(default_factory=dict)


class Objective(Protocol):
    """What is trained for; the same in training and evaluation, and independent of packing and processes."""

    @property
    def sum_names(self) -> tuple[str, ...]:
        """Names of its sums; a process without scores contributes zeros under the same names."""

    @property
    def details(self) -> tuple[str, ...]:
        """Names of the metrics that only evaluations report."""

    @property
    def labels(self) -> Labels:
        """How lines show its metrics."""

    def __call__(self, scores: Tensor, targets: Targets) -> ObjectiveResult:
        """The losses and sums of examples, from the scores [num_scores] of responses or steps, float32."""

    def reported(self, scores: Tensor, targets: Targets) -> Tensor:
        """What evaluations report of each response, from the scores: these, or rewards [num_responses]."""

    def metrics(self, sums: Mapping[str, float], num_examples: int) -> dict[str, float]:
        """Metrics from the sums over `num_examples`, which is at least 1; in the order of reports."""

    def for_data(self, datasets: Sequence[Dataset], *, flag: str = "--data-path") -> "Objective":
        """This objective as it trains on these data sets.

        Args:
            flag: that names them, for messages.

        Raises:
            UserError: one does not fit; the message names it.
        """
