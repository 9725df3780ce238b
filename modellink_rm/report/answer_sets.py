"""Scored answers of policies to sets of prompts, and what they say."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from modellink_rm.metrics.accuracy import Floats
from modellink_rm.metrics.answers import (
    Answers,
    EqualLengthDifference,
    equal_length_difference,
    longer_credits,
    variance_explained,
    win_credits,
)
from modellink_rm.metrics.bootstrap import Estimate, estimate_mean


@dataclass(frozen=True, kw_only=True)
class AnswerSet:
    """The answers of one policy to the prompts of one set.

    Attributes:
        policy: its name.
        name: of the set.
        prompts: texts [n].
        texts: of the answers, [a].
        numbers: of the answers.
        ended: the share of answers that the policy ended itself; None if unknown.
    """

    policy: str
    name: str
    prompts: tuple[str, ...]
    texts: tuple[str, ...]
    numbers: Answers
    ended: float | None


@dataclass(frozen=True, kw_only=True)
class AnswerSummary:
    """What a policy's answers to a set are.

    Attributes:
        score: mean over prompts of the mean over answers, with its interval over prompts.
        deviation: standard deviation of the scores of all answers.
        length: mean over answers.
        ended: as in `AnswerSet`.
        below: the share of answers that score below every response that the reward model was trained on;
            None where those are unknown.
        above: above every one, likewise.
        explained_by_length: share of the variance of scores that a line over lengths explains.
    """

    policy: str
    name: str
    num_prompts: int
    num_answers: int
    score: Estimate
    deviation: float
    length: float
    ended: float | None
    below: float | None
    above: float | None
    explained_by_length: float


@dataclass(frozen=True, kw_only=True)
class PolicyComparison:
    """A policy against another one on a set; every interval is over prompts.

    Attributes:
        win_rate: how often its answer scores above the other's to the same prompt, a tie counting half.
        score: mean difference.
        at_equal_length: mean difference at the lengths of its own answers.
        similar_win_rate: the win rate among pairs of similar length; None where there is none.
        num_similar: prompts that have such a pair.
        longer: how often its answer is the longer one, a tie counting half.
    """

    policy: str
    other: str
    name: str
    num_prompts: int
    win_rate: Estimate
    score: Estimate
    at_equal_length: EqualLengthDifference
    similar_win_rate: Estimate | None
    num_similar: int
    longer: float


@dataclass(frozen=True, kw_only=True)
class Study:
    """All that a study says.

    Attributes:
        unit: of lengths, "tokens" or "characters".
        seen: lowest and highest score of the responses that the reward model was trained on, if known.
        sets: by set, then policy, in the order that was given.
        comparisons: of each policy but the first with the first, on each set.
    """

    unit: str
    seen: tuple[float, float] | None
    sets: tuple[AnswerSet, ...]
    summaries: tuple[AnswerSummary, ...]
    comparisons: tuple[PolicyComparison, ...]

    def of_set(self, name: str) -> list[AnswerSet]:
        """The answers to a set, of each policy."""
        return [one for one in self.sets if one.name == name]

    @property
    def names(self) -> list[str]:
        """The names of the sets."""
        return list(dict.fromkeys(one.name for one in self.sets))


def make_study(sets: Sequence[AnswerSet], *, unit: str, seen: tuple[float, float] | None, seed: int) -> Study:
    """Summaries of all sets, and comparisons with the first policy of each."""
    by_name: dict[str, list[AnswerSet]] = {}
    for one in sets:
        by_name.setdefault(one.name, []).append(one)
    ordered = [one for group in by_name.values() for one in group]
    return Study(
        unit=unit,
        seen=seen,
        sets=tuple(ordered),
        summaries=tuple(_summary(one, seen, seed=seed) for one in ordered),
        comparisons=tuple(
            _comparison(one, group[0], seed=seed) for group in by_name.values() for one in group[1:]
        ),
    )


def _summary(one: AnswerSet, seen: tuple[float, float] | None, *, seed: int) -> AnswerSummary:
    scores, lengths = one.numbers.scores, one.numbers.lengths
    return AnswerSummary(
        policy=one.policy,
        name=one.name,
        num_prompts=one.numbers.num_prompts,
        num_answers=len(scores),
        score=estimate_mean(one.numbers.means(scores), seed=seed),
        deviation=float(scores.std()),
        length=float(lengths.mean()),
        ended=one.ended,
        below=None if seen is None else float((scores < seen[0]).mean()),
        above=None if seen is None else float((scores > seen[1]).mean()),
        explained_by_length=variance_explained(lengths, scores),
    )


def _comparison(one: AnswerSet, base: AnswerSet, *, seed: int) -> PolicyComparison:
    similar = win_credits(one.numbers, base.numbers, only_similar=True)
    return PolicyComparison(
        policy=one.policy,
        other=base.policy,
        name=one.name,
        num_prompts=one.numbers.num_prompts,
        win_rate=estimate_mean(win_credits(one.numbers, base.numbers), seed=seed),
        score=estimate_mean(gains(one, base), seed=seed),
        at_equal_length=equal_length_difference(one.numbers, base.numbers, seed=seed),
        similar_win_rate=estimate_mean(similar, seed=seed) if len(similar) else None,
        num_similar=len(similar),
        longer=float(longer_credits(one.numbers, base.numbers).mean()),
    )


def gains(one: AnswerSet, base: AnswerSet) -> Floats:
    """The mean score of one policy's answers minus the other's, for each prompt [n]."""
    difference: Floats = one.numbers.means(one.numbers.scores) - base.numbers.means(base.numbers.scores)
    return difference


def extreme_prompts(one: AnswerSet, base: AnswerSet, number: int) -> tuple[list[int], list[int]]:
    """The prompts of the largest losses, and those of the largest gains, at most `number` of each."""
    difference = gains(one, base)
    order = np.argsort(difference, kind="stable").tolist()
    worst = [place for place in order if difference[place] < 0][:number]
    best = [place for place in reversed(order) if difference[place] > 0][:number]
    return worst, best
