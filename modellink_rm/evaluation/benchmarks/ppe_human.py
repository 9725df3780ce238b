"""The human preferences of PPE, from section 4 of arXiv 2410.14872; the benchmark's own code is not public.

Where the paper leaves a detail open the docstrings below say what is computed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modellink_rm.evaluation.benchmarks.benchmark import (
    BenchmarkRow,
    BenchmarkScore,
    Part,
    known_name,
    text_field,
)
from modellink_rm.metrics.accuracy import Floats
from modellink_rm.metrics.ratings import bradley_terry, kendall, pearson, spearman

CATEGORIES = ("is_code", "hard_prompt", "easy_prompt", "if_prompt", "math_prompt")
OUTCOMES = {"model_a": 1.0, "model_b": 0.0, "tie": 0.5, "tie (bothbad)": 0.5}
NUM_RESAMPLES = 100
_SEED = 1234
_PERCENTILES = (2.5, 97.5)


@dataclass(frozen=True, kw_only=True)
class HumanLabel:
    """Two models and which one a person preferred.

    Attributes:
        outcome: 1 for the first model, 0 for the second, 0.5 for neither.
        categories: the kinds of prompt that the row is marked with.
    """

    model_a: str
    model_b: str
    outcome: float
    categories: tuple[str, ...]


def read_row(fields: Mapping[str, Any], file: Path) -> BenchmarkRow:
    """A prompt with the responses of model_a and model_b.

    Raises:
        RecordError: a field is missing, or the winner is unknown.
    """
    label = HumanLabel(
        model_a=text_field(fields, "model_a"),
        model_b=text_field(fields, "model_b"),
        outcome=OUTCOMES[known_name(fields, "winner", tuple(OUTCOMES))],
        categories=tuple(name for name in CATEGORIES if fields.get(name) is True),
    )
    responses = (text_field(fields, "response_1"), text_field(fields, "response_2"))
    return BenchmarkRow(prompt=text_field(fields, "prompt"), responses=responses, label=label)


def score(labels: Sequence[HumanLabel], scores: Sequence[Floats]) -> BenchmarkScore:
    """The accuracy on rows with a winner, a tie of scores being wrong; and how well models are ranked.

    The credit of a row without a winner is 0.5, of weight 0.
    """
    both = np.array(scores).reshape(-1, 2)
    predicted = np.where(both[:, 0] > both[:, 1], 1.0, np.where(both[:, 0] < both[:, 1], 0.0, 0.5))
    outcome = np.array([label.outcome for label in labels])
    is_decided = outcome != 0.5
    credits = np.where(is_decided, (predicted == outcome).astype(np.float64), 0.5)
    num_decided = int(is_decided.sum())
    categories = []
    for name in CATEGORIES:
        inside = is_decided & np.array([name in label.categories for label in labels])
        if inside.any():
            value = float(credits[inside].mean())
            categories.append(Part(name=name, value=value, num_rows=int(inside.sum())))
    notes = () if num_decided else ("no row has a winner: the accuracy is 0",)
    return BenchmarkScore(
        overall=float(credits[is_decided].mean()) if num_decided else 0.0,
        parts={"category": tuple(categories), "ranking of models": _ranking(labels, outcome, predicted)},
        credits=credits,
        ties=int((predicted == 0.5).sum()),
        notes=notes,
        strata=tuple("decided" if one else "tie" for one in is_decided),
        weights=is_decided / max(num_decided, 1),
    )


@dataclass(frozen=True, kw_only=True)
class Ratings:
    """Bradley-Terry ratings of m models.

    Attributes:
        values: [m].
        resampled: [100, m], of rows drawn with replacement.
    """

    values: Floats
    resampled: Floats

    def separated(self) -> NDArray[np.int64]:
        """[m, m]: 1 where the row's 95% interval is above the column's, -1 below, 0 where they overlap."""
        low, high = np.percentile(self.resampled, _PERCENTILES, axis=0)
        above = (low[:, None] > high[None, :]).astype(np.int64)
        return np.asarray(above - above.T, dtype=np.int64)


def _ranking(labels: Sequence[HumanLabel], people: Floats, model: Floats) -> tuple[Part, ...]:
    """How well the model's outcomes of all rows rank the models that people ranked; ties are half a win.

    Row-wise Pearson: the mean, over models with a defined one, of the correlation of its win rates against
    the others. Spearman and Kendall: of Bradley-Terry ratings. Over couples of models: separability, the
    share whose intervals are disjoint by the model; confidence agreement, over those that people separate,
    the mean of 1 (the same order), -1 (the other) and 0 (not separated by the model); Brier score, the mean
    squared distance of the share of resamples with one order from whether people's ratings have it.
    """
    names = sorted({name for label in labels for name in (label.model_a, label.model_b)})
    if len(names) < 3:
        return ()
    first = np.array([names.index(label.model_a) for label in labels])
    second = np.array([names.index(label.model_b) for label in labels])
    wins = [_wins(first, second, outcome, len(names)) for outcome in (people, model)]
    of_people, of_model = (_ratings(first, second, outcome, len(names)) for outcome in (people, model))
    couples = np.triu_indices(len(names), k=1)
    human, own = of_people.separated()[couples], of_model.separated()[couples]
    above = of_model.resampled[:, couples[0]] > of_model.resampled[:, couples[1]]
    is_above = of_people.values[couples[0]] > of_people.values[couples[1]]
    values = {
        "row-wise Pearson": _row_pearson(*wins),
        "Spearman": spearman(of_people.values, of_model.values),
        "Kendall": kendall(of_people.values, of_model.values),
        "separability": float((own != 0).mean()),
        "confidence agreement": float((human * own)[human != 0].mean()) if human.any() else float("nan"),
        "Brier score": float(((above.mean(axis=0) - is_above) ** 2).mean()),
    }
    return tuple(
        Part(name=name, value=value, num_rows=len(labels)) for name, value in values.items() if value == value
    )


def _wins(first: NDArray[np.int64], second: NDArray[np.int64], outcome: Floats, size: int) -> Floats:
    """Wins [m, m] of the row's model over the column's."""
    wins = np.zeros((size, size))
    np.add.at(wins, (first, second), outcome)
    np.add.at(wins, (second, first), 1.0 - outcome)
    return wins


def _ratings(first: NDArray[np.int64], second: NDArray[np.int64], outcome: Floats, size: int) -> Ratings:
    generator = np.random.default_rng(_SEED)
    resampled = []
    for _ in range(NUM_RESAMPLES):
        rows = generator.integers(len(outcome), size=len(outcome))
        resampled.append(bradley_terry(_wins(first[rows], second[rows], outcome[rows], size)))
    return Ratings(values=bradley_terry(_wins(first, second, outcome, size)), resampled=np.array(resampled))


def _row_pearson(people: Floats, model: Floats) -> float:
    """The mean correlation of both win rates of a model over its opponents."""
    games = people + people.T
    found = []
    for row in range(len(games)):
        played = games[row] > 0
        if played.sum() > 1:
            rates = [wins[row, played] / games[row, played] for wins in (people, model)]
            found.append(pearson(*rates))
    known = [one for one in found if one == one]
    return float(np.mean(known)) if known else float("nan")
