"""The charts of a report, drawn by matplotlib in the colours of a palette."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from modellink_rm.base.errors import printable
from modellink_rm.metrics.accuracy import Floats
from modellink_rm.metrics.calibration import reliability_curve
from modellink_rm.report.curves import Curve
from modellink_rm.report.scored_sets import ScoredPairs

NUM_BINS = 30
MOST_DOTS = 250  # of a response's kind in a scatter plot


@dataclass(frozen=True, kw_only=True)
class Palette:
    """Colours as matplotlib reads them.

    Attributes:
        series: of runs or sets.
    """

    ink: str
    grid: str
    chosen: str
    rejected: str
    series: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A chart.

    Attributes:
        name: of its PNG file, without the suffix.
        title: above it.
        draw: draws it into matplotlib's axes.
    """

    name: str
    title: str
    draw: Callable[[Any, Palette], None]


def lines(
    name: str, title: str, curves: Sequence[Curve], *, level: float | None = None, is_log: bool = False
) -> Chart:
    """Curves over steps.

    Args:
        level: where a line is drawn for orientation: the accuracy of a coin.
        is_log: a logarithmic scale, where every value is positive.
    """

    def draw(axes: Any, palette: Palette) -> None:
        if level is not None:
            axes.axhline(level, color=palette.ink, linewidth=0.7, linestyle=":", alpha=0.6)
        for one in curves:
            axes.plot(
                one.iterations,
                one.values,
                color=palette.series[one.colour % len(palette.series)],
                linewidth=1.0 if one.is_faint else 1.6,
                alpha=0.4 if one.is_faint else 1.0,
                linestyle=one.line,
                marker="o" if not one.is_faint and len(one.values) <= 30 else None,
                markersize=3,
                label=label_of(one.label) or None,
            )
        if is_log and all((one.values > 0).all() for one in curves):
            axes.set_yscale("log")
        axes.set_xlabel("step")
        if any(one.label for one in curves):
            axes.legend()

    return Chart(name=name, title=title, draw=draw)


def label_of(name: str) -> str:
    """A name as the label of a curve that shows every character.

    matplotlib reads what stands between dollar signs as a formula, and leaves a label that begins with an
    underscore out of the legend.
    """
    text = printable(name).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def score_histogram(name: str, title: str, pairs: ScoredPairs, *, low: float, high: float) -> Chart:
    """The distributions of chosen and rejected scores, in bins from `low` to `high`."""

    def draw(axes: Any, palette: Palette) -> None:
        edges = _edges(low, high)
        for values, colour, label in (
            (pairs.rejected, palette.rejected, "rejected"),
            (pairs.chosen, palette.chosen, "chosen"),
        ):
            axes.hist(values, bins=edges, color=colour, alpha=0.55, label=label)
            axes.axvline(float(values.mean()), color=colour, linewidth=1.4)
        axes.set_xlabel("score (lines: means)")
        axes.set_ylabel("pairs")
        axes.legend()

    return Chart(name=name, title=title, draw=draw)


def margin_histogram(name: str, title: str, before: ScoredPairs | None, after: ScoredPairs | None) -> Chart:
    """The distributions of chosen minus rejected, before and after training."""

    def draw(axes: Any, palette: Palette) -> None:
        known = [one.margins for one in (before, after) if one is not None]
        edges = _edges(min(one.min() for one in known), max(one.max() for one in known))
        if before is not None:
            axes.hist(before.margins, bins=edges, color=palette.grid, label="before")
        if after is not None:
            axes.hist(after.margins, bins=edges, color=palette.series[0], alpha=0.65, label="after")
        axes.axvline(0.0, color=palette.ink, linewidth=0.8, linestyle=":")
        axes.set_xlabel("chosen minus rejected")
        axes.set_ylabel("pairs")
        axes.legend()

    return Chart(name=name, title=title, draw=draw)


def score_by_length(name: str, title: str, pairs: ScoredPairs) -> Chart:
    """Every response's score against its length."""

    def draw(axes: Any, palette: Palette) -> None:
        step = max(1, len(pairs) // MOST_DOTS)
        for tokens, scores, colour, label in (
            (pairs.rejected_tokens, pairs.rejected, palette.rejected, "rejected"),
            (pairs.chosen_tokens, pairs.chosen, palette.chosen, "chosen"),
        ):
            axes.plot(
                tokens[::step],
                scores[::step],
                linestyle="",
                marker="o",
                markersize=2.6,
                markeredgewidth=0,
                color=colour,
                alpha=0.6,
                label=label,
            )
        axes.set_xlabel("tokens of the response")
        axes.set_ylabel("score")
        axes.legend()

    return Chart(name=name, title=title, draw=draw)


def calibration(name: str, title: str, before: ScoredPairs | None, after: ScoredPairs | None) -> Chart:
    """Accuracy against confidence; on the diagonal a model is right as often as it says."""

    def draw(axes: Any, palette: Palette) -> None:
        axes.plot([0.5, 1.0], [0.5, 1.0], color=palette.ink, linewidth=0.8, linestyle=":")
        for pairs, colour, label in ((before, palette.grid, "before"), (after, palette.series[0], "after")):
            if pairs is None:
                continue
            curve = reliability_curve(pairs.chosen, pairs.rejected)
            most = max(one.num_pairs for one in curve)
            x, y = [one.confidence for one in curve], [one.accuracy for one in curve]
            axes.plot(x, y, color=colour, linewidth=1.2)
            sizes = [12 + 60 * one.num_pairs / most for one in curve]
            axes.scatter(x, y, s=sizes, color=colour, linewidth=0, label=label)
        axes.set_xlim(0.48, 1.02)
        axes.set_ylim(-0.05, 1.05)
        axes.set_xlabel("confidence (size: pairs)")
        axes.set_ylabel("accuracy")
        axes.legend(loc="lower right")

    return Chart(name=name, title=title, draw=draw)


def _edges(low: float, high: float) -> Floats:
    if low == high:
        low, high = low - 0.5, high + 0.5
    edges: Floats = np.linspace(low, high, NUM_BINS + 1)
    return edges
