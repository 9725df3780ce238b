"""A run's lines on standard output: short ones on a terminal, Megatron's full ones elsewhere."""

import os
import stat
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
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

Row = dict[str, Any]
Metrics = Mapping[str, float]
_COLUMNS_OF_A_LINE = 100
# Cells of an evaluation's line for the metrics that this file knows; others follow with their names.
_EVALUATION_CELLS = {
    "accuracy": "acc: {accuracy:.4f}",
    "ties": "ties: {ties}",
    "chosen_score": "chosen score: {chosen_score:.4f} (std {chosen_std:.4f})",
    "rejected_score": "rejected score: {rejected_score:.4f} (std {rejected_std:.4f})",
    "margin": "margin: {margin:.4f}",
}
_TOLD_IN_OTHER_CELLS = ("loss", "chosen_std", "rejected_std")


class Console(Protocol):
    """Shows log steps and evaluations."""

    def step(self, row: Row, metrics: Metrics, *, milliseconds: float) -> None:
        """Show a log step.

        Args:
            row: as in metrics.jsonl.
            metrics: those of the objective among them.
            milliseconds: of each step.
        """

    def evaluation(self, metrics: Metrics, *, iteration: int, num_examples: int) -> None:
        """Show an evaluation."""

    def advance(self, iteration: int) -> None:
        """Show that the step `iteration` is done."""

    def close(self) -> None:
        """Leave the terminal as it was."""


def make_console(*, train_iters: int, batch_size: int, first_iteration: int) -> Console:
    """Short lines and a bar if standard output is a terminal, else full lines."""
    if sys.stdout.isatty():
        return TerminalConsole(train_iters=train_iters, first_iteration=first_iteration)
    return FullConsole(train_iters=train_iters, batch_size=batch_size, first_iteration=first_iteration)


class FullConsole:
    """Megatron's line with every figure; its format is fixed, because users' programs parse it."""

    def __init__(self, *, train_iters: int, batch_size: int, first_iteration: int) -> None:
        self._train_iters = train_iters
        self._batch_size = batch_size
        # The other end of a pipe may print to the same terminal as the bar; a file does not.
        is_file = stat.S_ISREG(os.fstat(sys.stdout.fileno()).st_mode) if sys.stderr.isatty() else False
        self._bar = progress_bar(total=train_iters, initial=first_iteration, unit="step", is_shown=is_file)

    def step(self, row: Row, metrics: Metrics, *, milliseconds: float) -> None:
        """Show a log step."""
        cells = [
            f"iteration {row['iteration']:8d}/{self._train_iters:8d}",
            f"consumed samples: {row['consumed_samples']:12d}",
            f"elapsed time per iteration (ms): {milliseconds:.1f}",
            f"learning rate: {row['learning_rate']:.6E}",
            f"global batch size: {self._batch_size:5d}",
            *_step_cells(metrics),
            f"grad norm: {row['grad_norm']:.3f}",
            f"tokens/s: {row['tokens_per_second']:.1f}",
            f"computed tokens/s: {row['computed_tokens_per_second']:.1f}",
            f"pairs/s: {row['pairs_per_second']:.2f}",
            f"TFLOP/s: {row['model_flops_per_second'] / 1e12:.3g}",
            f"of peak: {row['matmul_share']:.1%}",
        ]
        if row["padding_tokens"]:
            cells.append(f"padding tokens: {row['padding_tokens']}")
        if row["truncated"]:
            cells.append(f"truncated: {row['truncated']}")
        print(" " + " | ".join(cells) + " |", flush=True)

    def evaluation(self, metrics: Metrics, *, iteration: int, num_examples: int) -> None:
        """Show an evaluation."""
        cells = [
            f"validation after iteration {iteration}",
            f"pairs: {num_examples}",
            *_evaluation_cells(metrics),
        ]
        print(" " + " | ".join(cells) + " |", flush=True)

    def advance(self, iteration: int) -> None:
        """Move the bar."""
        self._bar.update(iteration - self._bar.n)

    def close(self) -> None:
        """Take the bar away."""
        self._bar.close()


class TerminalConsole:
    """One short line per log step, with the time left, above a bar."""

    def __init__(self, *, train_iters: int, first_iteration: int) -> None:
        from tqdm.contrib.logging import logging_redirect_tqdm

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
            _scores(metrics),
            [
                ("lr", f"{row['learning_rate']:.1e}"),
                ("tok/s", short_number(row["tokens_per_second"])),
                ("left", duration(left)),
            ],
            colour="bold",
        )

    def evaluation(self, metrics: Metrics, *, iteration: int, num_examples: int) -> None:
        """Show an evaluation."""
        more = [("pairs", str(num_examples))]
        if "ties" in metrics:
            more.append(("ties", f"{metrics['ties']:.0f}"))
        self._line("valid".rjust(2 * len(str(self._train_iters)) + 1), _scores(metrics), more, colour="green")

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


def _scores(metrics: Metrics) -> list[tuple[str, str]]:
    """The most important metrics; metrics.jsonl has those of the objective that are missing here."""
    forms = {"loss": ("loss", ".4f"), "accuracy": ("acc", ".3f"), "margin": ("margin", "6.3f")}
    return [(label, f"{metrics[name]:{form}}") for name, (label, form) in forms.items() if name in metrics]


def _step_cells(metrics: Mapping[str, float]) -> list[str]:
    names = {"loss": "lm loss", "accuracy": "acc"}
    return [
        f"{names.get(name, name.replace('_', ' '))}: {value:{'.6E' if name == 'loss' else '.4f'}}"
        for name, value in metrics.items()
    ]


def _evaluation_cells(metrics: Mapping[str, float]) -> list[str]:
    known = [cell.format(**metrics) for name, cell in _EVALUATION_CELLS.items() if name in metrics]
    others = [
        f"{name.replace('_', ' ')}: {value:.4f}"
        for name, value in metrics.items()
        if name not in (*_EVALUATION_CELLS, *_TOLD_IN_OTHER_CELLS)
    ]
    return [f"loss: {metrics['loss']:.6E}", *known, *others]
