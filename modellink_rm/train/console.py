"""A run's lines on standard output: short ones on a terminal, Megatron's full ones elsewhere."""

import os
import stat
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from string import Formatter
from typing import Any, Protocol

from modellink_rm.base.log import logger
from modellink_rm.base.terminal import (
    coloured,
    duration,
    has_colours,
    num_columns,
    progress_bar,
    short_number,
)
from modellink_rm.objective.objective import Labels
from modellink_rm.report.run_files import VALIDATION
from modellink_rm.train.data_sets import DataSetMetrics

Row = dict[str, Any]
Metrics = Mapping[str, float]
_COLUMNS_OF_A_LINE = 100


class Console(Protocol):
    """Shows log steps and evaluations."""

    def step(self, row: Row, metrics: Metrics, *, milliseconds: float) -> None:
        """Show a log step.

        Args:
            row: as in metrics.jsonl.
            metrics: those of the objective among them.
            milliseconds: of each step.
        """

    def evaluation(self, metrics: Metrics, *, name: str, iteration: int, num_examples: int) -> None:
        """Show an evaluation of the held-out set of that name."""

    def data_sets(self, metrics: DataSetMetrics, *, name: str, iteration: int) -> None:
        """Show the metrics of each data set of the mixture, or of the held-out set of that name."""

    def advance(self, iteration: int) -> None:
        """Show that the step `iteration` is done."""

    def close(self) -> None:
        """Leave the terminal as it was."""


def make_console(*, train_iters: int, batch_size: int, first_iteration: int, labels: Labels) -> Console:
    """Short lines and a bar if standard output is a terminal, else full lines."""
    if sys.stdout.isatty():
        return TerminalConsole(train_iters=train_iters, first_iteration=first_iteration, labels=labels)
    return FullConsole(
        train_iters=train_iters, batch_size=batch_size, first_iteration=first_iteration, labels=labels
    )


class FullConsole:
    """Megatron's line with every figure; its format is fixed, because users' programs parse it."""

    def __init__(self, *, train_iters: int, batch_size: int, first_iteration: int, labels: Labels) -> None:
        self._labels = labels
        self._train_iters = train_iters
        self._batch_size = batch_size
        # The other end of a pipe may print to the same terminal as the bar; a file does not.
        is_file = stat.S_ISREG(os.fstat(sys.stdout.fileno()).st_mode) if sys.stderr.isatty() else False
        self._bar = progress_bar(total=train_iters, initial=first_iteration, unit="step", is_shown=is_file)

    def step(self, row: Row, metrics: Metrics, *, milliseconds: float) -> None:
        """Show a log step."""
        examples = self._labels.examples
        cells = [
            f"iteration {row['iteration']:8d}/{self._train_iters:8d}",
            f"consumed samples: {row['consumed_samples']:12d}",
            f"elapsed time per iteration (ms): {milliseconds:.1f}",
            f"learning rate: {row['learning_rate']:.6E}",
            f"global batch size: {self._batch_size:5d}",
            *_step_cells(metrics, self._labels),
            f"grad norm: {row['grad_norm']:.3f}",
            f"tokens/s: {row['tokens_per_second']:.1f}",
            f"computed tokens/s: {row['computed_tokens_per_second']:.1f}",
            f"{examples}/s: {row[f'{examples}_per_second']:.2f}",
            f"TFLOP/s: {row['model_flops_per_second'] / 1e12:.3g}",
            f"of peak: {row['matmul_share']:.1%}",
        ]
        cells.append(f"epoch: {row['epoch']:.2f}")
        if row["padding_tokens"]:
            cells.append(f"padding tokens: {row['padding_tokens']}")
        if row["truncated"]:
            cells.append(f"truncated: {row['truncated']}")
        print(" " + " | ".join(cells) + " |", flush=True)

    def evaluation(self, metrics: Metrics, *, name: str, iteration: int, num_examples: int) -> None:
        """Show an evaluation of the held-out set of that name."""
        cells = [
            f"validation after iteration {iteration}{'' if name == VALIDATION else f' on {name}'}",
            f"{self._labels.examples}: {num_examples}",
            *_evaluation_cells(metrics, self._labels),
        ]
        print(" " + " | ".join(cells) + " |", flush=True)

    def data_sets(self, metrics: DataSetMetrics, *, name: str, iteration: int) -> None:
        """Show the metrics of each data set of the mixture, or of the held-out set of that name."""
        cells = [f"data sets of {name} after iteration {iteration}"]
        for data_set, values in metrics.items():
            shown = [f"{self._labels.examples}: {values['examples']}", f"loss: {values['loss']:.6E}"]
            if "accuracy" in values:
                shown.append(f"acc: {values['accuracy']:.4f}")
            cells.append(f"{data_set}: {', '.join(shown)}")
        print(" " + " | ".join(cells) + " |", flush=True)

    def advance(self, iteration: int) -> None:
        """Move the bar."""
        self._bar.update(iteration - self._bar.n)

    def close(self) -> None:
        """Take the bar away."""
        self._bar.close()


class TerminalConsole:
    """One short line per log step, with the time left, above a bar."""

    def __init__(self, *, train_iters: int, first_iteration: int, labels: Labels) -> None:
        from tqdm.contrib.logging import logging_redirect_tqdm

        self._labels = labels
        self._train_iters = train_iters
        self._first_iteration = first_iteration
        self._started = time.monotonic()
        self._has_colours = has_colours(sys.stdout)
        self._closing = ExitStack()
        self._bar = self._closing.enter_context(
            progress_bar(
                total=train_iters,
                initial=first_iteration,
                unit="step",
                colour="green" if self._has_colours else None,
                bar_format="{percentage:3.0f}% {bar} step {n_fmt}/{total_fmt}, {elapsed} gone, "
                "{remaining} left",
            )
        )
        # Messages are also printed above the bar.
        self._closing.enter_context(logging_redirect_tqdm(loggers=[logger]))

    def step(self, row: Row, metrics: Metrics, *, milliseconds: float) -> None:
        """Show a log step."""
        digits = len(str(self._train_iters))
        done = row["iteration"] - self._first_iteration
        left = (time.monotonic() - self._started) / done * (self._train_iters - row["iteration"])
        self._line(
            f"{row['iteration']:{digits}d}/{self._train_iters}",
            self._scores(metrics),
            [
                ("lr", f"{row['learning_rate']:.1e}"),
                ("tok/s", short_number(row["tokens_per_second"])),
                ("epoch", f"{row['epoch']:.2f}"),
                ("left", duration(left)),
            ],
            colour="bold",
        )

    def evaluation(self, metrics: Metrics, *, name: str, iteration: int, num_examples: int) -> None:
        """Show an evaluation of the held-out set of that name."""
        more = [
            (self._labels.examples, str(num_examples)),
            *_short_cells(metrics, self._labels.short_evaluation, self._labels),
        ]
        head = name.rjust(2 * len(str(self._train_iters)) + 1)
        self._line(head, self._scores(metrics), more, colour="green")

    def data_sets(self, metrics: DataSetMetrics, *, name: str, iteration: int) -> None:
        """Show the metrics of each data set of the mixture, or of the held-out set of that name."""
        width = 2 * len(str(self._train_iters)) + 1
        cells = [
            (data_set, " ".join(f"{values[one]:.3f}" for one in ("loss", "accuracy") if one in values))
            for data_set, values in metrics.items()
        ]
        self._line(name.rjust(width), cells, [], colour="dim")

    def _scores(self, metrics: Metrics) -> list[tuple[str, str]]:
        """The most important metrics."""
        return _short_cells(metrics, {"loss": ".4f", **self._labels.short}, self._labels)

    def _line(
        self, head: str, scores: list[tuple[str, str]], more: list[tuple[str, str]], *, colour: str
    ) -> None:
        """Print a line, without those last cells that do not fit."""
        columns = min(num_columns(), _COLUMNS_OF_A_LINE)
        line, length = self._coloured(head, colour), len(head)
        for label, value in [*scores, *more]:
            length += len(f"  {label} {value}")
            if length > columns:
                break
            line += f"  {self._coloured(label, 'dim')} {value}"
        self._bar.clear()
        print(line, flush=True)
        self._bar.refresh()

    def _coloured(self, text: str, colour: str) -> str:
        return coloured(text, colour) if self._has_colours else text

    def advance(self, iteration: int) -> None:
        """Move the bar."""
        self._bar.update(iteration - self._bar.n)

    def close(self) -> None:
        """Take the bar away."""
        self._closing.close()


def _label(name: str, labels: Labels) -> str:
    return labels.names.get(name, name.replace("_", " "))


def _short_cells(metrics: Metrics, formats: Mapping[str, str], labels: Labels) -> list[tuple[str, str]]:
    """The metrics that have a format; metrics.jsonl has the others of the objective."""
    return [(_label(name, labels), f"{metrics[name]:{form}}") for name, form in formats.items()]


def _step_cells(metrics: Metrics, labels: Labels) -> list[str]:
    return [
        f"lm loss: {value:.6E}" if name == "loss" else f"{_label(name, labels)}: {value:.4f}"
        for name, value in metrics.items()
    ]


def _evaluation_cells(metrics: Metrics, labels: Labels) -> list[str]:
    cells = [cell.format(**metrics) for cell in labels.evaluation]
    shown = {"loss", *(name for cell in labels.evaluation for _, name, _, _ in Formatter().parse(cell))}
    others = [f"{_label(name, labels)}: {metrics[name]:.4f}" for name in metrics if name not in shown]
    return [f"loss: {metrics['loss']:.6E}", *cells, *others]
