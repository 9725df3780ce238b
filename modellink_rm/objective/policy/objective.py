"""The objective of a policy on preferences: pairs, and rankings of more answers."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from modellink_rm.base.errors import UserError
from modellink_rm.base.log import info
from modellink_rm.batching.targets import Targets
from modellink_rm.config.dpo import DpoConfig
from modellink_rm.dataset.dataset import Dataset
from modellink_rm.metrics.accuracy import accuracy
from modellink_rm.objective.losses.listwise import listwise_loss
from modellink_rm.objective.objective import Labels, ObjectiveResult
from modellink_rm.objective.policy.losses import POLICY_LOSSES, AnswerPairs
from modellink_rm.objective.preference import credits_of

_SUMS = ("wins", "half_wins", "chosen_reward", "rejected_reward", "chosen_log_prob", "rejected_log_prob")
_TOKEN_SUMS = ("answer_tokens", "entropy", "log_ratio")  # over the tokens of all answers
_LABELS = Labels(
    examples="pairs",
    names={"accuracy": "acc"},
    evaluation=(
        "acc: {accuracy:.4f}",
        "chosen reward: {chosen_reward:.4f}",
        "rejected reward: {rejected_reward:.4f}",
        "margin: {margin:.4f}",
        "log-probability chosen: {chosen_log_prob:.2f}",
        "rejected: {rejected_log_prob:.2f}",
    ),
    short={"accuracy": ".3f", "margin": "6.3f"},
    short_evaluation={"entropy": ".3f"},
)


@dataclass(frozen=True, kw_only=True)
class PolicyObjective:
    """A loss of --dpo-loss-type, on log-probabilities of answers.

    The loss of an example with K answers is that of its ranking, of Plackett and Luce, on implicit rewards
    (Rafailov et al. 2023, arXiv 2305.18290, appendix A.3), which for two is `sigmoid`.

    An answer's implicit reward is beta times what its log-probability is above the reference's; without a
    reference, beta times its mean log-probability a token. The metrics are the accuracy (the share of pairs
    whose chosen answer has the higher reward; equal ones count half), the means of the rewards and of chosen
    minus rejected, and those of the answers' log-probabilities. Those of an example with K answers are the
    means over its pairs of different ranks.

    Evaluations also have two means over the tokens of all answers: the entropy of the distributions that
    predict them, -sum_v p(v) log p(v), as TRL's DPOTrainer (1.16.0) reports it; and, with a reference, the
    log-ratio log p - log p_ref. Of answers that were drawn from the reference its negative is the estimate
    k1 of KL(p_ref || p) a token (Schulman 2020, joschu.net/blog/kl-approx.html); of answers from elsewhere it
    is what the policy gained over the reference in likelihood, and no divergence.

    Attributes:
        labels: how lines show its metrics.
        has_rankings: some example has more than two answers.
    """

    config: DpoConfig
    labels: Labels = _LABELS
    has_rankings: bool = False

    details = ("entropy", "log_ratio")
    sum_names = _SUMS + _TOKEN_SUMS

    def __call__(self, scores: Tensor, targets: Targets) -> ObjectiveResult:
        """The loss of each of n examples.

        Args:
            scores: the log-probabilities [r] of their answers, float64, or with their entropies [r, 2].
        """
        scores, entropies = _columns(scores)
        config, num_tokens = self.config, targets.num_predicted.clamp(min=1).to(scores.dtype)
        ratios = scores - targets.reference if config.has_reference else torch.zeros_like(scores)
        values = ratios if config.has_reference else scores
        if self.has_rankings:
            losses = listwise_loss(config.dpo_beta * values, targets)
        else:
            pairs = AnswerPairs(
                chosen=values[targets.better],
                rejected=values[targets.worse],
                num_chosen=num_tokens[targets.better],
                num_rejected=num_tokens[targets.worse],
            )
            of_pairs = POLICY_LOSSES[config.dpo_loss_type](pairs, config)
            losses = targets.mean_by_example(of_pairs, targets.examples[targets.better])
        if config.pref_ftx:
            losses = losses - config.pref_ftx * _mean_of_best(scores / num_tokens, targets)
        detached = scores.detach()
        rewards = self.reported(detached, targets)
        of_tokens = (targets.num_predicted, entropies, ratios.detach())
        totals = (values.double().sum() for values in of_tokens)
        return ObjectiveResult(
            losses=losses.float(),
            sums=_sums(rewards, detached, targets) | dict(zip(_TOKEN_SUMS, totals, strict=True)),
            credits=credits_of(rewards, targets),
        )

    def reported(self, scores: Tensor, targets: Targets) -> Tensor:
        """The implicit rewards [r] of the answers."""
        scores, _ = _columns(scores)
        if self.config.has_reference:
            return self.config.dpo_beta * (scores - targets.reference)
        return self.config.dpo_beta * scores / targets.num_predicted.clamp(min=1)

    def metrics(self, sums: Mapping[str, float], num_examples: int) -> dict[str, float]:
        """The metrics over all examples; see the class. The entropy is 0 where the scores are without it."""
        means = {name: sums[name] / num_examples for name in _SUMS[2:]}
        num_tokens = max(sums["answer_tokens"], 1.0)
        found = {
            "accuracy": accuracy(sums["wins"], sums["half_wins"], num_examples),
            "chosen_reward": means["chosen_reward"],
            "rejected_reward": means["rejected_reward"],
            "margin": means["chosen_reward"] - means["rejected_reward"],
            "chosen_log_prob": means["chosen_log_prob"],
            "rejected_log_prob": means["rejected_log_prob"],
            "entropy": sums["entropy"] / num_tokens,
        }
        if self.config.has_reference:
            found["log_ratio"] = sums["log_ratio"] / num_tokens
        return found

    def for_data(self, datasets: Sequence[Dataset], *, flag: str = "--data-path") -> "PolicyObjective":
        """This objective as it trains on these data sets.

        Raises:
            UserError: one has ratings or steps, or rankings or probabilities of labels, which the loss has no
                form for, or a row of which no two answers can be compared.
        """
        config, has_rankings = self.config, False
        for dataset in datasets:
            where = f"{flag} {dataset.prefix}"
            if dataset.rows.attributes:
                raise UserError(
                    f"{where} has ratings of single responses, and --stage dpo trains on pairs or rankings"
                )
            if dataset.rows.holds_steps:
                raise UserError(
                    f"{where} holds labelled steps of single responses, and --stage dpo trains on pairs or "
                    "rankings"
                )
            if dataset.rows.probability is not None:
                raise UserError(
                    f"{where} has labels that are probabilities, which --stage dpo cannot use: leave their "
                    "field out when preprocessing, or give --dpo-label-smoothing for all pairs"
                )
            row = dataset.rows.first_without_preference()
            if row is not None:
                raise UserError(
                    f"{where}: the responses of row {row} all have one rank, so that it trains nothing; "
                    "leave such prompts out"
                )
            if dataset.rows.margin is not None:
                info(f"margins of {dataset.prefix} are not used: --stage dpo has no form for them")
            has_rankings = has_rankings or dataset.holds_rankings
            if dataset.holds_rankings and (config.dpo_loss_type != "sigmoid" or config.dpo_label_smoothing):
                raise UserError(
                    f"{where} holds prompts with more than two responses, for which only --dpo-loss-type "
                    "sigmoid without --dpo-label-smoothing is defined; preprocess the data as pairs"
                )
        labels = dataclasses.replace(self.labels, examples="prompts") if has_rankings else self.labels
        return dataclasses.replace(self, labels=labels, has_rankings=has_rankings)


def _columns(scores: Tensor) -> tuple[Tensor, Tensor]:
    """The log-probabilities [r] and the entropies [r], zeros where there are none."""
    if scores.dim() == 1:
        return scores, torch.zeros_like(scores)
    log_probs, entropies = scores.unbind(dim=1)
    return log_probs, entropies


def _mean_of_best(values: Tensor, targets: Targets) -> Tensor:
    """The mean over the best answers of each example [num_examples]: one, unless some are tied."""
    is_best = (targets.ranks == 1).to(values.dtype)
    count = targets.sum_by_example(is_best, targets.examples).clamp(min=1)
    return targets.sum_by_example(values * is_best, targets.examples) / count


def _sums(rewards: Tensor, log_probs: Tensor, targets: Targets) -> dict[str, Tensor]:
    """The sums over examples of their means over pairs; float64."""
    examples = targets.examples[targets.better]

    def total(values: Tensor) -> Tensor:
        return targets.mean_by_example(values.double(), examples).sum()

    chosen, rejected = rewards[targets.better], rewards[targets.worse]
    return {
        "wins": total(chosen > rejected),
        "half_wins": total(chosen == rejected),
        "chosen_reward": total(chosen),
        "rejected_reward": total(rejected),
        "chosen_log_prob": total(log_probs[targets.better]),
        "rejected_log_prob": total(log_probs[targets.worse]),
    }
