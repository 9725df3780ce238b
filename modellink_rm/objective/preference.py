"""The objective of reward models on preferences: pairs, and rankings of more responses."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from modellink_rm.base.errors import UserError
from modellink_rm.base.log import info
from modellink_rm.batching.targets import Targets
from modellink_rm.config.objective import ObjectiveConfig
from modellink_rm.dataset.dataset import Dataset
from modellink_rm.metrics.accuracy import accuracy
from modellink_rm.objective.losses.registry import LossType, PairLoss, RankingLossType, ScoredPairs
from modellink_rm.objective.objective import Labels, ObjectiveResult
from modellink_rm.objective.terms.term import Term

_SUMS = ("compared", "wins", "half_wins", "ties", "chosen", "chosen_squared", "rejected", "rejected_squared")
_LABELS = Labels(
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


@dataclass(frozen=True, kw_only=True)
class PreferenceObjective:
    """A loss of pairs or of rankings, and terms that are added to it.

    The loss of an example with K responses is the mean over its pairs of different ranks, so that each
    prompt weighs one (Ouyang et al. 2022, arXiv 2203.02155, section 3.5).

    Its metrics are the accuracy (the share of pairs whose chosen score is above the rejected one; two equal
    scores count half), the means of the scores and of chosen minus rejected, the population standard
    deviations of the scores, the number of pairs with two equal scores, and the mean of each term. Those of
    an example with K responses are the means over its pairs; one whose responses are all tied has none, and
    counts in the loss and the terms alone.

    Attributes:
        loss: its entry in LOSSES.
        config: its parameters.
        terms: what is added.
        labels: how lines show its metrics.
        uses_probabilities: some label of the data is a probability.
    """

    loss: PairLoss | LossType | RankingLossType
    config: ObjectiveConfig = dataclasses.field(default_factory=ObjectiveConfig)
    terms: tuple[Term, ...] = ()
    labels: Labels = _LABELS
    uses_probabilities: bool = False

    details = ("chosen_std", "rejected_std", "ties")

    @property
    def sum_names(self) -> tuple[str, ...]:
        """Names of its sums."""
        return (*_SUMS, *(term.name for term in self.terms))

    def __call__(self, scores: Tensor, targets: Targets) -> ObjectiveResult:
        """The loss of each of n examples, for the scores [r] of their responses."""
        num_compared = len(targets.better) + targets.tied.shape[1]
        num_two = sum(math.comb(number, 2) for number in targets.num_responses)
        assert num_compared == num_two, "examples without ranks cannot be trained on"
        losses = self._losses(scores, targets)
        terms = {term.name: term(scores, targets) for term in self.terms}
        for term in terms.values():
            losses = losses + term
        detached = scores.detach().double()
        sums = _sums(detached, targets)
        sums |= {name: term.detach().double().sum() for name, term in terms.items()}
        return ObjectiveResult(losses=losses, sums=sums, credits=credits_of(detached, targets))

    def _losses(self, scores: Tensor, targets: Targets) -> Tensor:
        if isinstance(self.loss, RankingLossType):
            return self.loss.loss(scores, targets)
        losses = self._pair_losses(scores, targets)
        examples = targets.examples[targets.better]
        if self.config.tie_threshold:
            first, second = scores[targets.tied]
            losses = torch.cat((losses, tie_loss(first - second, self.config.tie_threshold)))
            examples = torch.cat((examples, targets.examples[targets.tied[0]]))
        return targets.mean_by_example(losses, examples)

    def _pair_losses(self, scores: Tensor, targets: Targets) -> Tensor:
        """The loss of every pair of different ranks [c]."""
        loss = self.loss.make(self.config) if isinstance(self.loss, LossType) else self.loss
        assert not isinstance(loss, RankingLossType)
        margins = targets.margins[targets.worse] - targets.margins[targets.better]
        pairs = ScoredPairs(
            chosen=scores[targets.better],
            rejected=scores[targets.worse],
            margins=_weighted(margins, self.config.margin_weight).to(scores.dtype),
        )
        threshold, smoothing = self.config.tie_threshold, self.config.label_smoothing
        losses = loss(pairs.with_threshold(threshold))
        if not smoothing and not self.uses_probabilities:
            return losses
        # A label that is right with a probability is turned round with that of smoothing.
        others = 1 - targets.probabilities[targets.worse].to(scores.dtype)
        others = others * (1 - smoothing) + (1 - others) * smoothing
        return (1 - others) * losses + others * loss(pairs.swapped().with_threshold(threshold))

    def reported(self, scores: Tensor, targets: Targets) -> Tensor:
        """The scores themselves."""
        return scores

    def metrics(self, sums: Mapping[str, float], num_examples: int) -> dict[str, float]:
        """The metrics over all examples; see the class."""
        num_compared = max(round(sums["compared"]), 1)
        chosen, rejected = sums["chosen"] / num_compared, sums["rejected"] / num_compared
        return {
            "accuracy": accuracy(sums["wins"], sums["half_wins"], num_compared),
            "chosen_score": chosen,
            "rejected_score": rejected,
            "margin": chosen - rejected,
            "chosen_std": math.sqrt(max(sums["chosen_squared"] / num_compared - chosen**2, 0.0)),
            "rejected_std": math.sqrt(max(sums["rejected_squared"] / num_compared - rejected**2, 0.0)),
            "ties": round(sums["ties"]),
            **{term.name: sums[term.name] / num_examples for term in self.terms},
        }

    def for_data(self, datasets: Sequence[Dataset], *, flag: str = "--data-path") -> "PreferenceObjective":
        """This objective with what the data has: rankings, probabilities; says whether margins are used.

        Raises:
            UserError: a data set has ratings, no margins and the loss needs them, or probabilities that it
                cannot use; the message names it.
        """
        for dataset in datasets:
            if dataset.rows.attributes:
                raise UserError(
                    f"{flag} {dataset.prefix} has ratings of single responses, no pairs: train with "
                    "--loss-type regression"
                )
            if dataset.rows.holds_steps:
                raise UserError(
                    f"{flag} {dataset.prefix} holds labelled steps of single responses: train on them "
                    "by --stage prm"
                )
        if isinstance(self.loss, LossType) and self.loss.needs_margins:
            for dataset in datasets:
                if not dataset.rows.all_have_margins():
                    raise UserError(
                        f"{flag} {dataset.prefix} has rows without a margin, by which this --loss-type "
                        "scales the loss: give the field that holds it by --map-keys when preprocessing, or "
                        "train with --loss-type sigmoid"
                    )
        elif isinstance(self.loss, LossType) and self.loss.uses_margins and self.config.margin_weight:
            found = [str(dataset.prefix) for dataset in datasets if dataset.rows.margin is not None]
            if found:
                info(
                    f"margins of {', '.join(found)} are subtracted from chosen - rejected, times "
                    f"--margin-weight {self.config.margin_weight:g}; --margin-weight 0 leaves them out"
                )
        for dataset in datasets:
            row = dataset.rows.first_without_preference()
            if row is not None and not self.config.tie_threshold:
                raise UserError(
                    f"{flag} {dataset.prefix}: the responses of row {row} all have one rank, so that it "
                    "trains nothing; leave such prompts out, or train on ties by --tie-threshold"
                )
        has_rankings = any(dataset.holds_rankings for dataset in datasets)
        return dataclasses.replace(
            self,
            labels=dataclasses.replace(self.labels, examples="prompts") if has_rankings else self.labels,
            uses_probabilities=self._uses_probabilities(datasets, flag),
        )

    def _uses_probabilities(self, datasets: Sequence[Dataset], flag: str) -> bool:
        """Whether some label is a probability.

        Raises:
            UserError: one is, and the loss has no pairs.
        """
        found = [str(dataset.prefix) for dataset in datasets if dataset.rows.probability is not None]
        if found and isinstance(self.loss, RankingLossType):
            raise UserError(
                f"{flag} {found[0]} has labels that are probabilities, which a loss of rankings cannot "
                "use; train with --loss-type sigmoid"
            )
        return bool(found)


def tie_loss(differences: Tensor, threshold: float) -> Tensor:
    """-log P(tie) of two responses [t] whose scores differ by `differences` [t], float32.

    Rao and Kupper (1967): with x the difference and t the threshold, the first is preferred with probability
    sigmoid(x - t), the second with sigmoid(-x - t), and neither with what is left of 1, which is
    (exp(2t) - 1) sigmoid(x - t) sigmoid(-x - t).
    """
    both = logsigmoid(differences - threshold) + logsigmoid(-differences - threshold)
    # log(exp(2t) - 1), finite for large t.
    return -both - (2 * threshold + math.log(-math.expm1(-2 * threshold)))


def _weighted(margins: Tensor, weight: float) -> Tensor:
    """weight * margins; without a weight there are none, not even for rows whose margin is infinite."""
    return weight * margins if weight else torch.full_like(margins, math.nan)


def _sums(scores: Tensor, targets: Targets) -> dict[str, Tensor]:
    """The sums over examples of their means over pairs; float64."""
    chosen, rejected = scores[targets.better], scores[targets.worse]
    examples = targets.examples[targets.better]
    is_tie = (chosen == rejected).double()

    def total(values: Tensor) -> Tensor:
        return targets.mean_by_example(values, examples).sum()

    return {
        "compared": total(torch.ones_like(chosen)),
        "wins": total((chosen > rejected).double()),
        "half_wins": total(is_tie),
        "ties": is_tie.sum(),
        "chosen": total(chosen),
        "chosen_squared": total(chosen.square()),
        "rejected": total(rejected),
        "rejected_squared": total(rejected.square()),
    }


def credits_of(scores: Tensor, targets: Targets) -> Tensor:
    """The accuracy of each example [n]: the mean over its pairs, of which two equal scores count half.

    NaN of one whose responses are all tied.
    """
    chosen, rejected = scores[targets.better], scores[targets.worse]
    values = (chosen > rejected).double() + (chosen == rejected).double() / 2
    examples = targets.examples[targets.better]
    has_pairs = targets.sum_by_example(torch.ones_like(values), examples) > 0
    return targets.mean_by_example(values, examples).masked_fill(~has_pairs, math.nan)
