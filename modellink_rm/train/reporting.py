"""A run's reports: a row per log step and evaluation, to the console, metrics.jsonl and TensorBoard."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from modellink_rm.objective.objective import Labels
from modellink_rm.train.console import make_console
from modellink_rm.train.metrics_files import METRICS_NAME, MetricsFile, TensorBoard
from modellink_rm.train.sums import Summary


class Reporter:
    """Writes one row per log step and one per evaluation; only the first process has one.

    Args:
        directory: of metrics.jsonl, or None.
        resumed_iteration: later rows, of a run that was killed, are removed.
        details: metrics that only evaluations report.
        labels: how lines show the metrics.
    """

    def __init__(
        self,
        *,
        directory: Path | None,
        tensorboard_dir: str | None,
        train_iters: int,
        batch_size: int,
        resumed_iteration: int,
        details: Sequence[str],
        labels: Labels,
    ) -> None:
        self._details = details
        self._labels = labels
        self._closing = ExitStack()
        self._rows = None
        self._events = None
        if directory is not None:
            self._rows = MetricsFile(directory / METRICS_NAME, resumed_iteration=resumed_iteration)
            self._closing.callback(self._rows.close)
        if tensorboard_dir is not None:
            self._events = TensorBoard(tensorboard_dir, resumed_iteration=resumed_iteration)
            self._closing.callback(self._events.close)
        self._console = make_console(
            train_iters=train_iters, batch_size=batch_size, first_iteration=resumed_iteration, labels=labels
        )
        self._closing.callback(self._console.close)

    def close(self) -> None:
        """Finish every file."""
        self._closing.close()

    def log_steps(
        self,
        summary: Summary,
        *,
        iteration: int,
        consumed_samples: int,
        learning_rate: float,
        grad_norm: float,
        seconds: float,
        num_steps: int,
        matmul_peak: float,
    ) -> None:
        """Report the last `num_steps` steps, which took `seconds`.

        Args:
            matmul_peak: FLOP/s that matrix products reach on the devices of all processes together.
        """
        speed = {
            "tokens_per_second": summary.num_tokens / seconds,
            "computed_tokens_per_second": summary.num_computed_tokens / seconds,
            f"{self._labels.examples}_per_second": summary.num_examples / seconds,
            "model_flops_per_second": summary.flops / seconds,
            "matmul_share": summary.flops / seconds / matmul_peak,
        }
        metrics = {name: value for name, value in summary.metrics.items() if name not in self._details}
        row = {
            "iteration": iteration,
            "consumed_samples": consumed_samples,
            **metrics,
            "grad_norm": grad_norm,
            "learning_rate": learning_rate,
            **speed,
            "padding_tokens": summary.num_padding,
            "truncated": summary.num_truncated,
        }
        self._write(row)
        self._console.step(row, metrics, milliseconds=1000 * seconds / num_steps)

    def step_done(self, iteration: int) -> None:
        """Report that a step is done, without waiting for the device."""
        self._console.advance(iteration)

    def log_evaluation(self, summary: Summary, *, iteration: int, consumed_samples: int) -> None:
        """Report an evaluation after `iteration` steps."""
        counts = {"examples": summary.num_examples, "truncated": summary.num_truncated}
        values = {f"valid/{name}": value for name, value in {**summary.metrics, **counts}.items()}
        self._write({"iteration": iteration, "consumed_samples": consumed_samples, **values})
        self._console.evaluation(summary.metrics, iteration=iteration, num_examples=summary.num_examples)

    def _write(self, row: dict[str, Any]) -> None:
        if self._rows is not None:
            self._rows.add(row)
        if self._events is not None:
            self._events.add(row)
