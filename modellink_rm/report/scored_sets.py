"""The written scores of a set, before and after training, and what they say."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modellink_rm.metrics.accuracy import Floats, pair_credits, ranked_pairs
from modellink_rm.metrics.bootstrap import Estimate, estimate_mean
from modellink_rm.metrics.calibration import expected_calibration_error, log_losses, reliability_curve
from modellink_rm.metrics.ranks import area_under_curve
from modellink_rm.report.run_files import TRAINING, RunFiles, ScoredExample

SEED = 1234  # of the intervals
_LARGEST = float(np.finfo(np.float32).max)  # that a model gives; charts cannot show much larger ones


@dataclass(frozen=True, kw_only=True)
class ScoredPairs:
    """n pairs of different ranks with finite scores; examples of more responses have several.

    Attributes:
        examples: of each pair, in order.
        places: int64 [n, 2], the pair's responses in its example.
        chosen: float64 [n].
        rejected: float64 [n].
        chosen_tokens: float64 [n], of the response.
        rejected_tokens: as `chosen_tokens`.
    """

    examples: tuple[ScoredExample, ...]
    places: NDArray[np.int64]
    chosen: Floats
    rejected: Floats
    chosen_tokens: Floats
    rejected_tokens: Floats

    def __len__(self) -> int:
        return len(self.chosen)

    @property
    def margins(self) -> Floats:
        """Chosen minus rejected [n]."""
        return self.chosen - self.rejected


@dataclass(frozen=True, kw_only=True)
class ScoredSet:
    """A set before the first step and after the last one.

    Attributes:
        before: None if the run did not write it.
        after: None if the run has not come to its end.
        iteration: steps before `after`.
    """

    name: str
    before: ScoredPairs | None
    after: ScoredPairs | None
    iteration: int


@dataclass(frozen=True, kw_only=True)
class SetSummary:
    """What scores of at least one pair say; the attributes are those of an evaluation's table.

    Attributes:
        longer_accuracy: of choosing the longer response, in tokens.
    """

    num_pairs: int
    accuracy: Estimate
    longer_accuracy: float
    loss: float
    ece: float
    auc: float
    chosen: float
    rejected: float


def scored_sets(run: RunFiles) -> list[ScoredSet]:
    """The sets of a run's scores: held-out ones in order, then the sample of the training part."""
    names = sorted(dict.fromkeys(one.set for one in run.scores), key=lambda name: name == TRAINING)
    return [_scored_set(name, [one for one in run.scores if one.set == name]) for name in names]


def _scored_set(name: str, examples: Sequence[ScoredExample]) -> ScoredSet:
    last = max(one.iteration for one in examples)
    before = pairs_of([one for one in examples if one.iteration == 0])
    after = pairs_of([one for one in examples if one.iteration == last]) if last else None
    return ScoredSet(name=name, before=before, after=after, iteration=last)


def pairs_of(examples: Sequence[ScoredExample]) -> ScoredPairs | None:
    """The pairs of finite scores; None if there are none."""
    rows = [
        (one, better, worse)
        for one in examples
        for better, worse in zip(*ranked_pairs(one.ranks), strict=True)
        if abs(one.scores[better]) <= _LARGEST and abs(one.scores[worse]) <= _LARGEST  # no NaN is
    ]
    if not rows:
        return None

    def numbers(column: str, place: int) -> Floats:
        return np.array([getattr(row[0], column)[row[place]] for row in rows], dtype=np.float64)

    return ScoredPairs(
        examples=tuple(row[0] for row in rows),
        places=np.array([row[1:] for row in rows], dtype=np.int64),
        chosen=numbers("scores", 1),
        rejected=numbers("scores", 2),
        chosen_tokens=numbers("num_tokens", 1),
        rejected_tokens=numbers("num_tokens", 2),
    )


def summary_of(pairs: ScoredPairs) -> SetSummary:
    """The summary of pairs."""
    is_chosen = np.arange(2 * len(pairs)) < len(pairs)
    return SetSummary(
        num_pairs=len(pairs),
        accuracy=estimate_mean(pair_credits(pairs.chosen, pairs.rejected), seed=SEED),
        longer_accuracy=float(pair_credits(pairs.chosen_tokens, pairs.rejected_tokens).mean()),
        loss=float(log_losses(pairs.chosen, pairs.rejected).mean()),
        ece=expected_calibration_error(reliability_curve(pairs.chosen, pairs.rejected)),
        auc=area_under_curve(np.concatenate([pairs.chosen, pairs.rejected]), is_chosen),
        chosen=float(pairs.chosen.mean()),
        rejected=float(pairs.rejected.mean()),
    )


def accuracy_of(pairs: ScoredPairs) -> float:
    """The share of pairs whose chosen score is above the rejected one; a tie counts half."""
    return float(pair_credits(pairs.chosen, pairs.rejected).mean())


def by_source(pairs: ScoredPairs) -> dict[str, ScoredPairs]:
    """The pairs of each source, by name; {} if no example names one."""
    sources = np.array([one.source for one in pairs.examples])
    return {name: _selected(pairs, sources == name) for name in sorted(set(sources.tolist()) - {""})}


def extremes(pairs: ScoredPairs, number: int) -> tuple[list[int], list[int]]:
    """Pairs with texts, of the lowest and of the highest margins: those of a wrong and of a right sign."""
    order = [int(place) for place in np.argsort(pairs.margins, kind="stable")]
    with_text = [place for place in order if pairs.examples[place].responses is not None]
    worst = [place for place in with_text if pairs.margins[place] <= 0][:number]
    best = [place for place in reversed(with_text) if pairs.margins[place] > 0][:number]
    return worst, best


def _selected(pairs: ScoredPairs, mask: np.ndarray) -> ScoredPairs:
    return ScoredPairs(
        examples=tuple(one for one, keep in zip(pairs.examples, mask, strict=True) if keep),
        places=pairs.places[mask],
        chosen=pairs.chosen[mask],
        rejected=pairs.rejected[mask],
        chosen_tokens=pairs.chosen_tokens[mask],
        rejected_tokens=pairs.rejected_tokens[mask],
    )
