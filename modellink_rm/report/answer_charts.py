"""The charts of a study: scores and lengths of several policies' answers."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from modellink_rm.metrics.accuracy import Floats
from modellink_rm.report.answer_sets import AnswerSet
from modellink_rm.report.charts import MOST_DOTS, NUM_BINS, Chart, Palette, label_of

_LENGTH_BINS = 8


def distributions(
    name: str,
    title: str,
    sets: Sequence[AnswerSet],
    *,
    low: float,
    high: float,
    seen: tuple[float, float] | None,
) -> Chart:
    """The distributions of each policy's scores, in bins from `low` to `high`, with their means.

    Args:
        seen: lowest and highest score in the reward model's training, drawn as lines.
    """

    def draw(axes: Any, palette: Palette) -> None:
        edges = np.linspace(low, high, NUM_BINS + 1) if low < high else np.array([low - 0.5, high + 0.5])
        for place, one in enumerate(sets):
            scores = one.numbers.scores
            colour = palette.series[place % len(palette.series)]
            share = np.full(len(scores), 1 / len(scores))
            axes.hist(scores, bins=edges, weights=share, color=colour, alpha=0.5, label=label_of(one.policy))
            axes.axvline(float(scores.mean()), color=colour, linewidth=1.4)
        for bound in seen or ():
            axes.axvline(bound, color=palette.ink, linewidth=0.9, linestyle=":")
        axes.set_xlabel("score (lines: means" + ("; dotted: range seen in training)" if seen else ")"))
        axes.set_ylabel("share of answers")
        axes.legend()

    return Chart(name=name, title=title, draw=draw)


def dots_by_length(name: str, title: str, sets: Sequence[AnswerSet], *, unit: str) -> Chart:
    """Every answer's score against its length."""

    def draw(axes: Any, palette: Palette) -> None:
        for place, one in enumerate(sets):
            step = max(1, len(one.texts) // MOST_DOTS)
            axes.plot(
                one.numbers.lengths[::step],
                one.numbers.scores[::step],
                linestyle="",
                marker="o",
                markersize=2.6,
                markeredgewidth=0,
                color=palette.series[place % len(palette.series)],
                alpha=0.6,
                label=label_of(one.policy),
            )
        axes.set_xlabel(f"{unit} of the answer")
        axes.set_ylabel("score")
        axes.legend()

    return Chart(name=name, title=title, draw=draw)


def means_by_length(name: str, title: str, sets: Sequence[AnswerSet], *, unit: str) -> Chart:
    """The mean score of each policy's answers in bins of length that hold equal numbers of all answers."""

    def draw(axes: Any, palette: Palette) -> None:
        lengths = np.concatenate([one.numbers.lengths for one in sets])
        edges = np.unique(np.quantile(lengths, np.linspace(0, 1, _LENGTH_BINS + 1)))[1:-1]
        for place, one in enumerate(sets):
            x, y = _means_in_bins(one.numbers.lengths, one.numbers.scores, edges)
            colour = palette.series[place % len(palette.series)]
            axes.plot(x, y, color=colour, marker="o", markersize=3, linewidth=1.4, label=label_of(one.policy))
        axes.set_xlabel(f"{unit} of the answer, in bins")
        axes.set_ylabel("mean score")
        axes.legend()

    return Chart(name=name, title=title, draw=draw)


def _means_in_bins(lengths: Floats, scores: Floats, edges: Floats) -> tuple[list[float], list[float]]:
    """Mean length and mean score of the bins that are not empty."""
    bins = np.searchsorted(edges, lengths, side="right")
    kept = [bins == number for number in range(len(edges) + 1) if (bins == number).any()]
    return [float(lengths[one].mean()) for one in kept], [float(scores[one].mean()) for one in kept]
