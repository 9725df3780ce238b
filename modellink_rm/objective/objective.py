"""What is trained for: scores and targets of examples -> a loss of each, and what is known of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from modellink_rm.batching.targets import Targets
from modellink_rm.dataset.dataset import Dataset


@dataclass(frozen=True, kw_only=True)
class ObjectiveResult:
    """What an objective makes of n examples.

    Attributes:
        losses: float32 [n], of each example; the step divides their sum by the examples of the global batch.
        sums: float64 scalars over the examples, without gradient, by the objective's `sum_names` in their
            order.
    """

    losses: Tensor
    sums: dict[str, Tensor]


class Objective(Protocol):
    """Training and evaluation call the same one; it knows nothing of batches, packing and processes."""

    @property
    def sum_names(self) -> tuple[str, ...]:
        """What it sums up: a process that holds no scores adds zeros under the same names."""

    @property
    def details(self) -> tuple[str, ...]:
        """Which of its metrics only evaluations report."""

    def __call__(self, scores: Tensor, targets: Targets) -> ObjectiveResult:
        """The losses and sums of the examples whose responses have these scores [num_responses], float32."""

    def metrics(self, sums: Mapping[str, float], num_examples: int) -> dict[str, float]:
        """What the sums over so many examples, at least one, say; in the order of reports."""

    def check_data(self, datasets: Sequence[Dataset]) -> None:
        """The data sets hold what it is made for.

        Raises:
            UserError: names one that does not.
        """
