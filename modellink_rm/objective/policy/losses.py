"""The losses of --dpo-loss-type."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, relu

from modellink_rm.config.dpo import DpoConfig

# The logarithm of 1 - exp(x) is finite up to here; an answer without a token has a log-probability of 0.
_LARGEST_LOG_PROB = -1e-6


@dataclass(frozen=True, kw_only=True)
class AnswerPairs:
    """Log-probabilities of the answers of n pairs, float64 [n] each.

    Attributes:
        chosen: of the preferred answer by the policy, less that by the reference where the loss has one.
        rejected: of the other answer.
        num_chosen: predicted tokens of the preferred answer, at least 1.
        num_rejected: of the other one.
    """

    chosen: Tensor
    rejected: Tensor
    num_chosen: Tensor
    num_rejected: Tensor

    @property
    def difference(self) -> Tensor:
        """Chosen less rejected [n]."""
        return self.chosen - self.rejected

    @property
    def difference_by_token(self) -> Tensor:
        """The mean over the tokens of the chosen answer less that of the rejected one [n]."""
        return self.chosen / self.num_chosen - self.rejected / self.num_rejected


# -> loss of each pair [n], float64
PolicyLoss = Callable[[AnswerPairs, DpoConfig], Tensor]


def sigmoid_loss(pairs: AnswerPairs, config: DpoConfig) -> Tensor:
    """DPO (Rafailov et al. 2023, arXiv 2305.18290, eq. 7), with labels that are wrong with a probability.

    The smoothed form is that of Mitchell, "A note on DPO with noisy preferences" (2023), eq. 3.
    """
    logits, smoothing = config.dpo_beta * pairs.difference, config.dpo_label_smoothing
    losses = -logsigmoid(logits)
    return losses if not smoothing else (1 - smoothing) * losses - smoothing * logsigmoid(-logits)


def hinge_loss(pairs: AnswerPairs, config: DpoConfig) -> Tensor:
    """SLiC's hinge (Zhao et al. 2023, arXiv 2305.10425) on implicit rewards (RSO, arXiv 2309.06657)."""
    return relu(1 - config.dpo_beta * pairs.difference)


def ipo_loss(pairs: AnswerPairs, config: DpoConfig) -> Tensor:
    """IPO (Azar et al. 2023, arXiv 2310.12036, eq. 17) on means over tokens, as its authors told TRL."""
    return (pairs.difference_by_token - 1 / (2 * config.dpo_beta)).square()


def robust_loss(pairs: AnswerPairs, config: DpoConfig) -> Tensor:
    """Robust DPO (Chowdhury et al. 2024, arXiv 2403.00409, eq. 12): unbiased under wrong labels."""
    logits, smoothing = config.dpo_beta * pairs.difference, config.dpo_label_smoothing
    return (smoothing * logsigmoid(-logits) - (1 - smoothing) * logsigmoid(logits)) / (1 - 2 * smoothing)


def simpo_loss(pairs: AnswerPairs, config: DpoConfig) -> Tensor:
    """SimPO (Meng et al. 2024, arXiv 2405.14734, eq. 6), --simpo-gamma being its gamma."""
    return -logsigmoid(config.dpo_beta * pairs.difference_by_token - config.simpo_gamma)


def orpo_loss(pairs: AnswerPairs, config: DpoConfig) -> Tensor:
    """ORPO (Hong et al. 2024, arXiv 2403.07691, eq. 6), --dpo-beta being its lambda."""
    chosen, rejected = pairs.chosen / pairs.num_chosen, pairs.rejected / pairs.num_rejected
    log_odds = (chosen - _log_complement(chosen)) - (rejected - _log_complement(rejected))
    return -chosen - config.dpo_beta * logsigmoid(log_odds)


def _log_complement(log_probs: Tensor) -> Tensor:
    """log(1 - p) of probabilities given by their logarithms."""
    return torch.log(-torch.expm1(log_probs.clamp(max=_LARGEST_LOG_PROB)))


POLICY_LOSSES: dict[str, PolicyLoss] = {
    "sigmoid": sigmoid_loss,
    "hinge": hinge_loss,
    "ipo": ipo_loss,
    "robust": robust_loss,
    "simpo": simpo_loss,
    "orpo": orpo_loss,
}
