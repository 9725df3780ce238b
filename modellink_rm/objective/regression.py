"""The objective of reward models on ratings of several attributes."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from modellink_rm.base.errors import UserError
from modellink_rm.batching.targets import Targets
from modellink_rm.dataset.dataset import Dataset
from modellink_rm.metrics.correlation import correlation_of_sums
from modellink_rm.objective.losses.registry import RatingLossType
from modellink_rm.objective.objective import Labels, ObjectiveResult

# Of each attribute, over the responses that it is rated of.
_SUMS = ("rated", "error", "output", "output_squared", "rating", "rating_squared", "product")


@dataclass(frozen=True, kw_only=True)
class RegressionObjective:
    """A loss of the ratings of responses, one output of the model for each attribute.

    The loss of an example is the mean over its ratings; one that is not given does not count.
    Its metrics are, of each attribute, the mean squared error and Pearson's correlation of outputs and
    ratings, 0 where one of both does not vary.

    Attributes:
        loss: its entry in LOSSES.
        attributes: of the data, in the order of the model's outputs; () before `for_data`.
    """

    loss: RatingLossType
    attributes: tuple[str, ...] = ()

    @property
    def details(self) -> tuple[str, ...]:
        """The errors and correlations of several attributes; of one they are in every line."""
        return tuple(self._metric_names()) if len(self.attributes) > 1 else ()

    @property
    def labels(self) -> Labels:
        """How lines show its metrics."""
        cells = tuple(
            f"{name}: error {{{name}_error:.4f}}, correlation {{{name}_correlation:.4f}}"
            for name in self.attributes
        )
        return Labels(examples="responses", evaluation=cells)

    @property
    def sum_names(self) -> tuple[str, ...]:
        """Names of its sums."""
        return tuple(f"{name}/{what}" for what in _SUMS for name in self.attributes)

    def __call__(self, scores: Tensor, targets: Targets) -> ObjectiveResult:
        """The loss of each of n examples.

        Args:
            scores: [r], or [r, a] of several attributes.
        """
        outputs = scores.view(-1, len(self.attributes))
        # A batch that only pads says nothing of attributes.
        ratings = targets.ratings.to(outputs.dtype).view_as(outputs)
        is_rated = ~ratings.isnan()
        weights = is_rated.to(outputs.dtype)
        errors = self.loss.loss(outputs, ratings.nan_to_num(nan=0.0)) * weights
        totals = targets.sum_by_example(errors.sum(dim=1), targets.examples)
        counts = targets.sum_by_example(weights.sum(dim=1), targets.examples)
        with torch.no_grad():
            sums = self._sums(outputs.detach().double(), ratings.double(), is_rated)
        return ObjectiveResult(losses=totals / counts.clamp(min=1), sums=sums)

    def _sums(self, outputs: Tensor, ratings: Tensor, is_rated: Tensor) -> dict[str, Tensor]:
        """The sums over responses, of each attribute; float64."""
        ratings, outputs = ratings.nan_to_num(nan=0.0), outputs * is_rated
        values = {
            "rated": is_rated.double(),
            "error": (outputs - ratings).square(),
            "output": outputs,
            "output_squared": outputs.square(),
            "rating": ratings,
            "rating_squared": ratings.square(),
            "product": outputs * ratings,
        }
        return {
            f"{name}/{what}": total
            for what in _SUMS
            for name, total in zip(self.attributes, values[what].sum(dim=0).unbind(), strict=True)
        }

    def reported(self, scores: Tensor, targets: Targets) -> Tensor:
        """The outputs themselves, of which reports keep the first."""
        return scores

    def metrics(self, sums: Mapping[str, float], num_examples: int) -> dict[str, float]:
        """The metrics over all examples; see the class."""
        found = {}
        for name in self.attributes:
            of = {what: sums[f"{name}/{what}"] for what in _SUMS}
            found[f"{name}_error"] = of["error"] / max(of["rated"], 1.0)
            found[f"{name}_correlation"] = correlation_of_sums(
                of["rated"],
                first=(of["output"], of["output_squared"]),
                second=(of["rating"], of["rating_squared"]),
                product=of["product"],
            )
        return found

    def _metric_names(self) -> list[str]:
        return [f"{name}_{what}" for name in self.attributes for what in ("error", "correlation")]

    def for_data(self, datasets: Sequence[Dataset], *, flag: str = "--data-path") -> "RegressionObjective":
        """This objective with the attributes of the data.

        Raises:
            UserError: a data set has no ratings, or of other attributes; the message names it.
        """
        attributes = self.attributes or datasets[0].rows.attributes
        for dataset in datasets:
            found = dataset.rows.attributes
            if not found:
                raise UserError(
                    f"{flag} {dataset.prefix} has no ratings, which --loss-type regression is of: "
                    "preprocess with --handler-name RatedResponseHandler, or train on pairs by another "
                    "--loss-type"
                )
            if found != attributes:
                raise UserError(
                    f"{flag} {dataset.prefix} has ratings of {', '.join(found)}, not of "
                    f"{', '.join(attributes)}: give the same attributes in the same order by --map-keys"
                )
        return dataclasses.replace(self, attributes=attributes)
