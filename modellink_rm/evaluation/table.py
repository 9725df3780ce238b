"""The results as text: 80 columns, and up to 100 where names are long."""

import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

from modellink_rm.base.terminal import without_commands
from modellink_rm.evaluation.groups import Group
from modellink_rm.evaluation.overlap import NUM_WORDS
from modellink_rm.evaluation.results import Comparison, EvaluationResults, ModelResult
from modellink_rm.evaluation.score_benchmarks import BenchmarkResult
from modellink_rm.evaluation.sets import SetResult
from modellink_rm.metrics.bootstrap import Estimate

WIDTH = 100
_NOTE_WIDTH = 80
_GAP = "  "


def lines_of(results: EvaluationResults) -> list[str]:
    """All results, none of the lines longer than 100 characters unless a path is."""
    lines = [line for model in results.models for line in [*_model_lines(model), ""]]
    lines += [line for one in results.comparisons for line in [*_comparison_lines(one), ""]]
    if results.overlaps:
        lines += [*_overlap_lines(results), ""]
    return lines[:-1]


def _model_lines(model: ModelResult) -> Iterator[str]:
    yield model.load
    if model.sets:
        yield from aligned(
            ["set", "pairs", "accuracy", "95% interval", "longer", "loss", "ECE", "AUC"],
            [
                [
                    one.name,
                    f"{one.num_pairs:,}",
                    f"{one.accuracy.value:.4f}",
                    _interval(one.accuracy),
                    f"{one.longer_accuracy:.4f}",
                    f"{one.loss.value:.4f}",
                    f"{one.ece:.4f}",
                    f"{one.auc:.4f}",
                ]
                for one in model.sets
            ],
        )
    for one in model.sets:
        yield from _set_lines(one)
    for benchmark in model.benchmarks:
        if model.sets or benchmark is not model.benchmarks[0]:
            yield ""
        yield from _benchmark_lines(benchmark)


def _set_lines(result: SetResult) -> Iterator[str]:
    parts = (
        ("source", "source", result.by_source),
        ("length", "characters that chosen is longer", result.by_length_difference),
        ("margin of the data", "margin", result.by_margin),
    )
    for what, head, groups in parts:
        if groups:
            yield ""
            yield f"{result.name}, by {what}"
            yield from _group_lines(head, groups)
    yield ""
    yield f"{result.name}, by confidence"
    yield from aligned(
        ["confidence", "pairs", "accuracy", "mean confidence"],
        [
            [f"{one.low:.2f} to {one.high:.2f}", f"{one.num_pairs:,}", *_four(one.accuracy, one.confidence)]
            for one in result.reliability
        ],
    )
    yield ""
    swap, records = result.swap, result.records
    yield (
        f"{result.name}: {swap.num_pairs:,} swapped: accuracy {swap.swapped_accuracy:.4f}, "
        f"as given {swap.accuracy:.4f}, scores within {swap.largest_difference:.1e}"
    )
    yield (
        f"{result.name}: records {records.total:,} | truncated {records.truncated:,} | "
        f"not scored {sum(records.not_scored.values()):,} | ties {result.ties:,}"
    )


def _benchmark_lines(result: BenchmarkResult) -> Iterator[str]:
    interval = "" if result.interval is None else _interval(result.interval)
    rows = [["overall", f"{result.num_rows:,}", f"{result.overall:.4f}", interval]]
    for kind, parts in result.parts.items():
        rows += [[f"{kind}: {one.name}", f"{one.num_rows:,}", f"{one.value:.4f}", ""] for one in parts]
    yield from aligned([result.name, "rows", "score", "95% interval"], rows)
    yield (
        f"{result.name}: {Path(result.path).name} | rows with a tie {result.ties:,} | "
        f"truncated {result.truncated:,}"
    )
    for note in result.notes:
        yield from textwrap.wrap(
            f"{result.name}: {note}", _NOTE_WIDTH, subsequent_indent=_GAP, break_on_hyphens=False
        )


def _group_lines(head: str, groups: Sequence[Group]) -> list[str]:
    return aligned(
        [head, "pairs", "accuracy", "95% interval", "longer"],
        [
            [
                one.name,
                f"{one.num_pairs:,}",
                f"{one.accuracy.value:.4f}",
                _interval(one.accuracy),
                f"{one.longer_accuracy:.4f}",
            ]
            for one in groups
        ],
    )


def _comparison_lines(comparison: Comparison) -> Iterator[str]:
    yield f"{comparison.load} minus {comparison.other}"
    yield from aligned(
        ["set", "pairs", "difference", "95% interval", "better", "worse", "p-value"],
        [
            [
                one.name,
                f"{one.num_items:,}",
                f"{one.difference.difference.value:+.4f}",
                _interval(one.difference.difference, sign="+"),
                f"{one.difference.num_better:,}",
                f"{one.difference.num_worse:,}",
                f"{one.difference.p_value:.2g}",
            ]
            for one in (*comparison.sets, *comparison.benchmarks)
        ],
    )


def _overlap_lines(results: EvaluationResults) -> Iterator[str]:
    yield f"overlap with the training data ({NUM_WORDS} words in a row, or a whole shorter prompt)"
    yield from aligned(
        ["set", "items", "overlapping", "accuracy of these", "of the others"],
        [
            [
                one.name,
                f"{one.num_items:,}",
                f"{len(one.places):,}",
                *("-" if value is None else f"{value:.4f}" for value in (one.accuracy, one.others_accuracy)),
            ]
            for one in results.overlaps
        ],
    )


def aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table: the first column left-aligned and cut to what fits, the others right-aligned."""
    table = [[_one_line(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(head))]
    widths[0] = min(widths[0], WIDTH - sum(len(_GAP) + width for width in widths[1:]))
    return [
        _GAP.join(
            [
                _shortened(row[0], widths[0]).ljust(widths[0]),
                *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
            ]
        ).rstrip()
        for row in table
    ]


def _one_line(text: str) -> str:
    return without_commands(" ".join(text.split()))


def _shortened(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 3]}..."


def _interval(estimate: Estimate, *, sign: str = "") -> str:
    return f"{estimate.low:{sign}.4f} to {estimate.high:{sign}.4f}"


def _four(*values: float) -> list[str]:
    return [f"{value:.4f}" for value in values]
