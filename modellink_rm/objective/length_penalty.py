"""A penalty on the correlation of scores and lengths, exact over the global batch."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from modellink_rm.batching.targets import Targets
from modellink_rm.dataset.dataset import Dataset
from modellink_rm.metrics.correlation import correlation_of_sums
from modellink_rm.objective.objective import Labels, Objective, ObjectiveResult

# Over responses, each of which weighs 1 / the number of its prompt's.
_SUMS = (
    "length/weight",
    "length/score",
    "length/score_squared",
    "length/tokens",
    "length/tokens_squared",
    "length/product",
)
NUM_MOMENTS = len(_SUMS)
# A variance below the rounding of the float32 scores that it is of is none.
_NO_VARIANCE = 1e-12


@dataclass(frozen=True, kw_only=True)
class LengthPenalty:
    """An objective, and weight * |correlation of scores and numbers of tokens| over the global batch.

    The term of the quality head of ODIN (Chen et al. 2024, arXiv 2402.07319, section 3.2), whose second head
    is not used after training. A correlation is no sum over examples: the moments of the global batch come
    first, from a forward pass without gradients. With them the loss of an example has the value of the
    penalty, and the exact gradient of it with respect to its own scores. Without moments, as in evaluations,
    only the metrics are added: the correlation, and the penalty of it.

    Attributes:
        objective: what the penalty is added to.
        moments: float64 [6], the sums of the global batch in the order of `_SUMS`; None without the penalty.
    """

    objective: Objective
    weight: float
    moments: Tensor | None = None

    @property
    def sum_names(self) -> tuple[str, ...]:
        """Names of its sums."""
        return (*self.objective.sum_names, *_SUMS)

    @property
    def details(self) -> tuple[str, ...]:
        """As of the objective."""
        return self.objective.details

    @property
    def labels(self) -> Labels:
        """As of the objective."""
        return self.objective.labels

    def __call__(self, scores: Tensor, targets: Targets) -> ObjectiveResult:
        """The loss of each of n examples, for the scores [r] of their responses."""
        result = self.objective(scores, targets)
        moments = length_moments(scores, targets)
        sums = result.sums | dict(zip(_SUMS, moments.unbind(), strict=True))
        losses = result.losses if self.moments is None else result.losses + self._penalty(scores, targets)
        return dataclasses.replace(result, losses=losses, sums=sums)

    def _penalty(self, scores: Tensor, targets: Targets) -> Tensor:
        """The penalty of each example [n]: all have its value, and the gradients of their own scores.

        With s a score, l its number of tokens, w its weight and n the sum of the weights, which is the number
        of examples, the derivative of the correlation c is
        w / n * ((l - mean l) / (std s * std l) - c * (s - mean s) / var s).
        """
        assert self.moments is not None
        weight, score, score_squared, tokens, tokens_squared, product = self.moments.unbind()
        mean_score, mean_tokens = score / weight, tokens / weight
        variance = score_squared / weight - mean_score.square()
        spread = variance * (tokens_squared / weight - mean_tokens.square())
        varies = (variance > _NO_VARIANCE * mean_score.square()) & (spread > 0)
        # Where nothing varies there is no correlation, and no gradient.
        variance, spread = torch.where(varies, variance, 1.0), torch.where(varies, spread, 1.0)
        covariance = product / weight - mean_score * mean_tokens
        correlation = torch.where(varies, covariance / spread.sqrt(), 0.0)
        fixed = scores.detach().double()
        slopes = (targets.num_tokens - mean_tokens) / spread.sqrt()
        slopes = (slopes - correlation * (fixed - mean_score) / variance) * correlation.sign()
        # The step divides by n.
        slopes = (slopes * response_weights(targets)).to(scores.dtype)
        changes = targets.sum_by_example(slopes * (scores - scores.detach()), targets.examples)
        return self.weight * (correlation.abs().to(scores.dtype) + changes)

    def reported(self, scores: Tensor, targets: Targets) -> Tensor:
        """What the objective reports of each response."""
        return self.objective.reported(scores, targets)

    def metrics(self, sums: Mapping[str, float], num_examples: int) -> dict[str, float]:
        """The objective's metrics, and the correlation and its penalty over all examples."""
        weight, score, score_squared, tokens, tokens_squared, product = (sums[name] for name in _SUMS)
        correlation = correlation_of_sums(
            weight, first=(score, score_squared), second=(tokens, tokens_squared), product=product
        )
        return {
            **self.objective.metrics(sums, num_examples),
            "length_correlation": correlation,
            "length_penalty": self.weight * abs(correlation),
        }

    def for_data(self, datasets: Sequence[Dataset], *, flag: str = "--data-path") -> "LengthPenalty":
        """This objective with what the data has.

        Raises:
            UserError: as of the objective.
        """
        return dataclasses.replace(self, objective=self.objective.for_data(datasets, flag=flag))


@torch.no_grad()
def length_moments(scores: Tensor, targets: Targets) -> Tensor:
    """The sums of a micro-batch over its responses, float64 [6], as `LengthPenalty.moments` has them."""
    weights = response_weights(targets)
    values, tokens = scores.detach().double(), targets.num_tokens.double()
    kinds = (torch.ones_like(values), values, values.square(), tokens, tokens.square(), values * tokens)
    return torch.stack([(weights * kind).sum() for kind in kinds])


def response_weights(targets: Targets) -> Tensor:
    """1 / the number of its prompt's responses, float64 [r]."""
    ones = torch.ones(targets.examples.shape, dtype=torch.float64, device=targets.examples.device)
    return 1 / targets.sum_by_example(ones, targets.examples)[targets.examples]
