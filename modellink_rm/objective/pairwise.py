"""The objective of reward models on preference pairs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from modellink_rm.base.errors import UserError
from modellink_rm.batching.targets import Targets
from modellink_rm.dataset.dataset import Dataset
from modellink_rm.metrics.accuracy import accuracy
from modellink_rm.objective.losses.registry import PairLoss, ScoredPairs
from modellink_rm.objective.objective import Labels, ObjectiveResult


@dataclass(frozen=True, kw_only=True)
class PairwiseObjective:
    """A loss of pairs.

    Its metrics are the accuracy (the share of pairs whose chosen score is above the rejected one; a tie
    counts half), the means of the scores and of chosen minus rejected, the population standard deviations of
    the scores, and the number of pairs with two equal scores.
    """

    loss: PairLoss

    sum_names = ("wins", "ties", "chosen", "chosen_squared", "rejected", "rejected_squared")
    details = ("chosen_std", "rejected_std", "ties")
    labels = Labels(
        examples="pairs",
        names={"accuracy": "acc"},
        evaluation=(
            "acc: {accuracy:.4f}",
            "ties: {ties}",
            "chosen score: {chosen_score:.4f} (std {chosen_std:.4f})",
            "rejected score: {rejected_score:.4f} (std {rejected_std:.4f})",
            "margin: {margin:.4f}",
        ),
        short={"accuracy": ".3f", "margin": "6.3f"},
        short_evaluation={"ties": ".0f"},
    )

    def __call__(self, scores: Tensor, targets: Targets) -> ObjectiveResult:
        """The loss of each of n pairs, for scores [2n]."""
        assert all(number == 2 for number in targets.num_responses), "check_data lets only pairs pass"
        by_pair = scores.view(-1, 2)
        pairs = ScoredPairs(
            chosen=by_pair[:, 0], rejected=by_pair[:, 1], margins=targets.margins.view(-1, 2)[:, 1]
        )
        chosen, rejected = pairs.chosen.detach().double(), pairs.rejected.detach().double()
        sums = {
            "wins": (chosen > rejected).double().sum(),
            "ties": (chosen == rejected).double().sum(),
            "chosen": chosen.sum(),
            "chosen_squared": chosen.square().sum(),
            "rejected": rejected.sum(),
            "rejected_squared": rejected.square().sum(),
        }
        return ObjectiveResult(losses=self.loss(pairs), sums=sums)

    def metrics(self, sums: Mapping[str, float], num_examples: int) -> dict[str, float]:
        """The metrics over all pairs; see the class."""
        chosen, rejected = sums["chosen"] / num_examples, sums["rejected"] / num_examples
        return {
            "accuracy": accuracy(sums["wins"], sums["ties"], num_examples),
            "chosen_score": chosen,
            "rejected_score": rejected,
            "margin": chosen - rejected,
            "chosen_std": math.sqrt(max(sums["chosen_squared"] / num_examples - chosen**2, 0.0)),
            "rejected_std": math.sqrt(max(sums["rejected_squared"] / num_examples - rejected**2, 0.0)),
            "ties": round(sums["ties"]),
        }

    def check_data(self, datasets: Sequence[Dataset]) -> None:
        """Check that every prompt has two responses.

        Raises:
            UserError: a data set has prompts with more; the message names it.
        """
        for dataset in datasets:
            if dataset.holds_rankings:
                raise UserError(
                    f"--data-path {dataset.prefix} holds prompts with more than two responses, and "
                    "--is-pairwise-dataset trains on pairs: preprocess the records with a handler that makes "
                    "pairs"
                )
