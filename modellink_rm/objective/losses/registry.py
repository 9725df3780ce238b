"""The interfaces of losses of pairs, rankings and ratings, and the names that --loss-type accepts."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from modellink_rm.base.registry import Registry
from modellink_rm.batching.targets import Targets
from modellink_rm.config.objective import ObjectiveConfig


@dataclass(frozen=True, kw_only=True)
class ScoredPairs:
    """Scores of n pairs.

    Attributes:
        chosen: float32 [n], of the preferred responses.
        rejected: float32 [n], of the other responses.
        margins: float32 [n], by how much the data prefers chosen to rejected, times --margin-weight; NaN if
            it does not say.
    """

    chosen: Tensor
    rejected: Tensor
    margins: Tensor

    @property
    def logits(self) -> Tensor:
        """chosen - rejected - margin [n]; a pair without a margin has one of 0."""
        return self.chosen - self.rejected - self.margins.nan_to_num(nan=0.0)

    def swapped(self) -> "ScoredPairs":
        """The same pairs with the labels the other way round."""
        return ScoredPairs(chosen=self.rejected, rejected=self.chosen, margins=-self.margins)

    def with_threshold(self, threshold: float) -> "ScoredPairs":
        """The same pairs, of which each must be preferred by so much more to count as preferred."""
        if not threshold:
            return self
        return dataclasses.replace(self, margins=self.margins.nan_to_num(nan=0.0) + threshold)


# -> loss of each pair [n], float32, finite for any finite scores
PairLoss = Callable[[ScoredPairs], Tensor]


@dataclass(frozen=True, kw_only=True)
class LossType:
    """What stands behind a name of --loss-type.

    Attributes:
        make: the loss of a pair, with the parameters that the flags give; one example's loss is the mean
            over its pairs.
        uses_margins: the loss is one of `ScoredPairs.logits`, so that margins and ties have a meaning.
        needs_margins: every pair must have a margin.
    """

    make: Callable[[ObjectiveConfig], PairLoss]
    uses_margins: bool = False
    needs_margins: bool = False


@dataclass(frozen=True, kw_only=True)
class RankingLossType:
    """What stands behind a name of --loss-type that looks at all responses of an example at once.

    Attributes:
        loss: loss of each example [num_examples], from the scores [num_responses] of all.
    """

    loss: Callable[[Tensor, Targets], Tensor]


@dataclass(frozen=True, kw_only=True)
class RatingLossType:
    """What stands behind a name of --loss-type that compares the model's outputs with ratings.

    Attributes:
        loss: of each output, from outputs and ratings of the same shape, float32.
    """

    loss: Callable[[Tensor, Tensor], Tensor]


LOSSES: Registry[PairLoss | LossType | RankingLossType | RatingLossType] = Registry(
    "--loss-type",
    package="modellink_rm.objective.losses",
    entry_points="modellink_rm.losses",
    accepts=lambda entry: callable(entry) or isinstance(entry, LossType | RankingLossType | RatingLossType),
    expected="a function",
)
