"""The rows of a benchmark to its scores and their intervals."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from modellink_rm.base.errors import AgreedError
from modellink_rm.evaluation.benchmarks.benchmark import BenchmarkScore, Part
from modellink_rm.evaluation.read_benchmarks import BenchmarkInput
from modellink_rm.evaluation.score_sets import ScoresItems
from modellink_rm.inference.result import NotScored
from modellink_rm.metrics.accuracy import Floats
from modellink_rm.metrics.bootstrap import Estimate, estimate

ROWS_AT_A_TIME = 256


@dataclass(frozen=True, kw_only=True)
class ScoredBenchmark:
    """A model's score of a benchmark; `num_truncated` rows lost tokens."""

    score: BenchmarkScore
    num_truncated: int


@dataclass(frozen=True, kw_only=True)
class BenchmarkResult:
    """What is known of a model on a benchmark.

    Attributes:
        interval: of `overall`, over rows resampled within their parts; None where the formula has none.
        ties: rows in which a correct and a wrong response have equal scores.
        truncated: rows of which tokens were cut.
    """

    name: str
    path: str
    num_rows: int
    overall: float
    interval: Estimate | None
    parts: dict[str, tuple[Part, ...]]
    ties: int
    truncated: int
    notes: tuple[str, ...]


def score_benchmark(
    scorer: ScoresItems,
    rows: BenchmarkInput,
    *,
    advance: Callable[[int], object] = lambda num_rows: None,
) -> ScoredBenchmark:
    """Score all rows of a benchmark; a collective, with equal results on all processes.

    Args:
        advance: told the number of rows that were done.

    Raises:
        AgreedError: a row has no score, or one that is not finite.
    """
    scores: list[Floats] = []
    num_truncated = 0
    conversations = rows.conversations()
    for start in range(0, len(conversations), ROWS_AT_A_TIME):
        block = conversations[start : start + ROWS_AT_A_TIME]
        for result in scorer.results(block):
            if isinstance(result, NotScored):
                raise AgreedError(f"{result.message}; {rows.named.name} needs a score of every row")
            scores.append(np.array(result.steps or result.scores, dtype=np.float64))
            num_truncated += result.is_truncated
        advance(len(block))
    score = rows.benchmark.score([row.label for row in rows.rows], scores)
    return ScoredBenchmark(score=score, num_truncated=num_truncated)


def benchmark_result(rows: BenchmarkInput, scored: ScoredBenchmark, *, seed: int) -> BenchmarkResult:
    """The result of a benchmark; `seed` is the bootstrap's."""
    score = scored.score
    return BenchmarkResult(
        name=rows.named.name,
        path=rows.named.path,
        num_rows=len(rows.rows),
        overall=score.overall,
        interval=interval_of(score, seed=seed),
        parts=dict(score.parts),
        ties=score.ties,
        truncated=scored.num_truncated,
        notes=score.notes,
    )


def interval_of(score: BenchmarkScore, *, seed: int) -> Estimate | None:
    """The interval of the headline figure, each row resampled within its stratum; None without weights."""
    if score.weights is None:
        return None
    names = np.array(score.strata)
    strata = [
        (float(score.weights[mask][0]), score.credits[mask])
        for mask in (names == name for name in np.unique(names))
    ]

    def resampled(generator: np.random.Generator) -> float:
        return sum(
            weight * float(credits[generator.integers(len(credits), size=len(credits))].sum())
            for weight, credits in strata
        )

    return estimate(score.overall, resampled, seed=seed)
