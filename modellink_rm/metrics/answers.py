"""Formulas over the scores of two policies' answers to the same prompts."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modellink_rm.metrics.accuracy import Floats, pair_credits
from modellink_rm.metrics.bootstrap import Estimate, estimate

SIMILAR_LENGTH = 0.1  # two lengths are similar where they differ by at most this share of the longer one
NUM_LENGTH_BINS = 10


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Scored answers to n prompts, those of a prompt together.

    Attributes:
        prompts: int64 [a], the index of each answer's prompt, ascending from 0 to n - 1.
        scores: float64 [a], finite.
        lengths: float64 [a], not below 0.
    """

    prompts: NDArray[np.int64]
    scores: Floats
    lengths: Floats

    @property
    def num_prompts(self) -> int:
        """The number of prompts, n."""
        return int(self.prompts[-1]) + 1

    def of_each_prompt(self, values: Floats) -> list[Floats]:
        """The values [a] of its answers for each prompt."""
        return np.split(values, np.searchsorted(self.prompts, np.arange(1, self.num_prompts)))

    def means(self, values: Floats) -> Floats:
        """The mean of the values [a] over the answers of each prompt [n]."""
        counts = np.bincount(self.prompts, minlength=self.num_prompts)
        means: Floats = np.bincount(self.prompts, weights=values, minlength=self.num_prompts) / counts
        return means


def win_credits(first: Answers, second: Answers, *, only_similar: bool = False) -> Floats:
    """How often the first policy's answers score above the second's, for each prompt [m].

    The mean over all pairs of an answer of each; a tie counts half.

    Args:
        only_similar: over pairs of similar length alone; prompts without such a pair are left out.
    """
    found = []
    of_first = zip(first.of_each_prompt(first.scores), first.of_each_prompt(first.lengths), strict=True)
    of_second = zip(second.of_each_prompt(second.scores), second.of_each_prompt(second.lengths), strict=True)
    for (scores, lengths), (other_scores, other_lengths) in zip(of_first, of_second, strict=True):
        credits = pair_credits(scores[:, None], other_scores)
        if only_similar:
            credits = credits[_are_similar(lengths[:, None], other_lengths)]
        if credits.size:
            found.append(credits.mean())
    return np.array(found, dtype=np.float64)


def longer_credits(first: Answers, second: Answers) -> Floats:
    """How often the first policy's answers are longer than the second's, for each prompt [n]."""
    pairs = zip(first.of_each_prompt(first.lengths), second.of_each_prompt(second.lengths), strict=True)
    return np.array([pair_credits(one[:, None], other).mean() for one, other in pairs], dtype=np.float64)


def _are_similar(one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = np.abs(one - other) <= SIMILAR_LENGTH * np.maximum(one, other)
    return found


def variance_explained(lengths: Floats, scores: Floats) -> float:
    """The share of the variance of scores [a] that a line over lengths [a] explains: r squared."""
    if not lengths.std() or not scores.std():
        return 0.0
    return float(np.corrcoef(lengths, scores)[0, 1] ** 2)


@dataclass(frozen=True, kw_only=True)
class EqualLengthDifference:
    """The mean score of one policy minus another's at equal length.

    Attributes:
        difference: over bins of length, weighted by the first policy's answers in them; None where no bin
            has answers of both.
        covered: the share of the first policy's answers in bins that have answers of both.
    """

    difference: Estimate | None
    covered: float


def equal_length_difference(first: Answers, second: Answers, *, seed: int) -> EqualLengthDifference:
    """Compare two policies within ten bins of length that have equal numbers of answers of both together.

    Direct standardization, as of rates by age, to the lengths of the first policy's answers; the interval is
    of a bootstrap over prompts.
    """
    edges = np.unique(
        np.quantile(np.concatenate([first.lengths, second.lengths]), np.linspace(0, 1, NUM_LENGTH_BINS + 1))
    )[1:-1]
    counts, sums = _by_bin(first, edges)
    other_counts, other_sums = _by_bin(second, edges)
    value, covered = _standardized(counts.sum(0), sums.sum(0), other_counts.sum(0), other_sums.sum(0))
    if not covered:
        return EqualLengthDifference(difference=None, covered=0.0)

    def resampled(generator: np.random.Generator) -> float:
        times = np.bincount(generator.integers(len(counts), size=len(counts)), minlength=len(counts))
        drawn = _standardized(times @ counts, times @ sums, times @ other_counts, times @ other_sums)[0]
        return drawn if np.isfinite(drawn) else value

    return EqualLengthDifference(difference=estimate(value, resampled, seed=seed), covered=covered)


def _by_bin(answers: Answers, edges: Floats) -> tuple[Floats, Floats]:
    """How many answers of each prompt lie in each bin of length, and the sums of their scores: [n, bins]."""
    shape = (answers.num_prompts, len(edges) + 1)
    places = answers.prompts * shape[1] + np.searchsorted(edges, answers.lengths, side="right")
    size = shape[0] * shape[1]
    counts = np.bincount(places, minlength=size).astype(np.float64).reshape(shape)
    sums: Floats = np.bincount(places, weights=answers.scores, minlength=size).astype(np.float64)
    return counts, sums.reshape(shape)


def _standardized(
    counts: Floats, sums: Floats, other_counts: Floats, other_sums: Floats
) -> tuple[float, float]:
    """The weighted difference of the means of bins [bins], or NaN, and the share of `counts` in them."""
    both = (counts > 0) & (other_counts > 0)
    if not both.any():
        return float("nan"), 0.0
    differences = sums[both] / counts[both] - other_sums[both] / other_counts[both]
    weights = counts[both] / counts[both].sum()
    return float(weights @ differences), float(counts[both].sum() / counts.sum())
