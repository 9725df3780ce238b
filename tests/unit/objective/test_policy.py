"""The objective of policies: losses and metrics against the formulas of their papers, pair by pair."""

import dataclasses
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from modellink_rm.base.errors import UserError
from modellink_rm.batching.targets import Targets
from modellink_rm.config.dpo import WITH_REFERENCE, WITHOUT_REFERENCE, DpoConfig
from modellink_rm.objective.policy.losses import POLICY_LOSSES
from modellink_rm.objective.policy.objective import PolicyObjective
from tests.unit.objective.targets import pairs, targets

POLICY = [-8.0, -9.0, -4.0, -2.5]
REFERENCE = [-8.5, -7.0, -3.0, -2.0]
NUM_TOKENS = [4, 3, 2, 5]
BETA = 0.3


def of_pairs() -> Targets:
    """Two pairs."""
    return dataclasses.replace(
        pairs(2),
        num_predicted=torch.tensor(NUM_TOKENS),
        reference=torch.tensor(REFERENCE, dtype=torch.float64),
    )


def losses_of(flags: DpoConfig) -> list[float]:
    """The losses of the two pairs."""
    result = PolicyObjective(config=flags)(torch.tensor(POLICY, dtype=torch.float64), of_pairs())
    return [float(loss) for loss in result.losses]


def log_sigmoid(value: float) -> float:
    return -math.log1p(math.exp(-value))


def expected(kind: str, chosen: int, smoothing: float) -> float:
    """The loss of the pair whose chosen answer has that number, from its paper."""
    ratios = [own - other for own, other in zip(POLICY, REFERENCE, strict=True)]
    means = [own / number for own, number in zip(POLICY, NUM_TOKENS, strict=True)]
    rejected = chosen + 1
    logit = BETA * (ratios[chosen] - ratios[rejected])
    by_token = ratios[chosen] / NUM_TOKENS[chosen] - ratios[rejected] / NUM_TOKENS[rejected]
    odds = [math.exp(mean) / (1 - math.exp(mean)) for mean in means]
    return {
        "sigmoid": -(1 - smoothing) * log_sigmoid(logit) - smoothing * log_sigmoid(-logit),
        "hinge": max(0.0, 1 - logit),
        "ipo": (by_token - 1 / (2 * BETA)) ** 2,
        "robust": (-(1 - smoothing) * log_sigmoid(logit) + smoothing * log_sigmoid(-logit))
        / (1 - 2 * smoothing),
        "simpo": -log_sigmoid(BETA * (means[chosen] - means[rejected]) - 0.7),
        "orpo": -means[chosen] - BETA * log_sigmoid(math.log(odds[chosen] / odds[rejected])),
    }[kind]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("kind", POLICY_LOSSES)
def test_loss_is_that_of_its_paper(kind: str, smoothing: float) -> None:
    if smoothing and kind not in ("sigmoid", "robust"):
        with pytest.raises(UserError, match="--dpo-label-smoothing has no meaning for --dpo-loss-type"):
            DpoConfig(dpo_loss_type=kind, dpo_label_smoothing=smoothing)
        return
    flags = DpoConfig(
        dpo_loss_type=kind, dpo_beta=BETA, dpo_label_smoothing=smoothing, simpo_gamma=0.7, pref_ftx=0.0
    )
    assert losses_of(flags) == pytest.approx([expected(kind, chosen, smoothing) for chosen in (0, 2)])


def test_every_choice_of_the_flag_has_a_loss() -> None:
    assert set(POLICY_LOSSES) == {*WITH_REFERENCE, *WITHOUT_REFERENCE}


def test_pref_ftx_adds_the_negative_log_likelihood_of_a_chosen_token() -> None:
    without = losses_of(DpoConfig(dpo_beta=BETA))
    added = losses_of(DpoConfig(dpo_beta=BETA, pref_ftx=0.5))
    assert added == pytest.approx([without[0] + 0.5 * 8.0 / 4, without[1] + 0.5 * 4.0 / 2])


def test_metrics_are_means_of_implicit_rewards() -> None:
    objective = PolicyObjective(config=DpoConfig(dpo_beta=BETA))
    result = objective(torch.tensor(POLICY, dtype=torch.float64), of_pairs())
    assert tuple(result.sums) == objective.sum_names
    metrics = objective.metrics({name: float(value) for name, value in result.sums.items()}, 2)
    assert metrics == {
        "accuracy": pytest.approx(0.5),  # rewards 0.15 over -0.6, and -0.3 under -0.15
        "chosen_reward": pytest.approx(BETA * (0.5 - 1.0) / 2),
        "rejected_reward": pytest.approx(BETA * (-2.0 - 0.5) / 2),
        "margin": pytest.approx(BETA * 2.0 / 2),
        "chosen_log_prob": pytest.approx(-6.0),
        "rejected_log_prob": pytest.approx(-5.75),
        "entropy": 0.0,
        "log_ratio": pytest.approx((0.5 - 2.0 - 1.0 - 0.5) / 14),
    }


def test_entropy_is_the_mean_over_the_tokens_of_all_answers() -> None:
    objective = PolicyObjective(config=DpoConfig(dpo_beta=BETA))
    entropies = [6.0, 3.0, 1.0, 9.0]
    log_probs = torch.tensor(POLICY, dtype=torch.float64)
    with_entropies = torch.stack((log_probs, torch.tensor(entropies, dtype=torch.float64)), dim=1)
    result, without = (objective(scores, of_pairs()) for scores in (with_entropies, log_probs))
    metrics = objective.metrics({name: float(value) for name, value in result.sums.items()}, 2)
    assert metrics["entropy"] == pytest.approx(19 / 14)
    assert torch.equal(result.losses, without.losses)
    assert torch.equal(
        objective.reported(with_entropies, of_pairs()), objective.reported(log_probs, of_pairs())
    )
    assert {"entropy", "log_ratio"} <= set(objective.details)  # evaluations alone report them


def test_log_ratio_is_of_losses_with_a_reference_alone() -> None:
    objective = PolicyObjective(config=DpoConfig(dpo_loss_type="orpo"))
    result = objective(torch.tensor(POLICY, dtype=torch.float64), of_pairs())
    metrics = objective.metrics({name: float(value) for name, value in result.sums.items()}, 2)
    assert "log_ratio" not in metrics
    assert "entropy" in metrics


def test_equal_rewards_count_half() -> None:
    objective = PolicyObjective(config=DpoConfig())
    result = objective(torch.tensor(REFERENCE), of_pairs())
    metrics = objective.metrics({name: float(value) for name, value in result.sums.items()}, 2)
    assert (metrics["accuracy"], metrics["margin"]) == (0.5, 0.0)


def test_reward_without_a_reference_is_the_mean_over_tokens() -> None:
    objective = PolicyObjective(config=DpoConfig(dpo_loss_type="simpo", dpo_beta=BETA))
    found = objective.reported(torch.tensor(POLICY, dtype=torch.float64), of_pairs())
    assert found.tolist() == pytest.approx([BETA * -2.0, BETA * -3.0, BETA * -2.0, BETA * -0.5])


def ranking_loss(values: Tensor) -> float:
    """Of three answers, best first: the best of all, then the best of the others."""
    return float(values.logsumexp(0) - values[0] + values[1:].logsumexp(0) - values[1])


def test_ranking_has_the_likelihood_of_plackett_and_luce() -> None:
    known = targets((1, 2, 3))
    known = dataclasses.replace(known, reference=torch.tensor([-3.0, -2.0, -1.0]))
    objective = PolicyObjective(config=DpoConfig(dpo_beta=BETA), has_rankings=True)
    scores = torch.tensor([-2.0, -2.5, -4.0])
    assert objective(scores, known).losses.tolist() == pytest.approx(
        [ranking_loss(BETA * (scores - known.reference))]
    )


def test_ranking_of_two_is_the_sigmoid_loss() -> None:
    objective = PolicyObjective(config=DpoConfig(dpo_beta=BETA), has_rankings=True)
    ranked = objective(torch.tensor(POLICY, dtype=torch.float64), of_pairs()).losses.tolist()
    assert ranked == pytest.approx(losses_of(DpoConfig(dpo_beta=BETA)))


def test_answer_without_a_token_keeps_the_odds_finite() -> None:
    known = dataclasses.replace(of_pairs(), num_predicted=torch.tensor([0, 3, 2, 5]))
    scores = torch.tensor([0.0, -9.0, -4.0, -2.5], requires_grad=True)
    result = PolicyObjective(config=DpoConfig(dpo_loss_type="orpo"))(scores, known)
    result.losses.sum().backward()
    assert torch.isfinite(result.losses).all()
    assert scores.grad is not None
    assert torch.isfinite(scores.grad).all()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"dpo_beta": 0.0}, "--dpo-beta must be above 0"),
        ({"pref_ftx": -0.1}, "--pref-ftx must not be negative"),
        ({"dpo_label_smoothing": 0.5}, "--dpo-label-smoothing must be below 0.5"),
        ({"dpo_loss_type": "orpo", "reference_load": "x"}, "--reference-load has no meaning"),
    ],
)
def test_flags_without_meaning_are_refused(flags: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        DpoConfig(**flags)  # type: ignore[arg-type]


def test_steps_are_refused_as_what_they_are() -> None:
    """Each row holds one response; that its responses all have one rank says nothing to a user."""
    rows = SimpleNamespace(attributes=(), holds_steps=True, probability=None)
    steps: Any = SimpleNamespace(prefix=Path("data/x"), rows=rows)
    with pytest.raises(UserError, match="--data-path data/x holds labelled steps of single responses"):
        PolicyObjective(config=DpoConfig()).for_data([steps])
