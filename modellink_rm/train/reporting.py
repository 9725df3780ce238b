"""What a run tells: Megatron's console line, metrics.jsonl, TensorBoard and a progress bar."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tqdm import tqdm

from modellink_rm.base.log import info
from modellink_rm.train.sums import Summary

METRICS_NAME = "metrics.jsonl"

# Cells of the line of an evaluation, for the metrics that this file knows; others follow by their names.
_EVALUATION_CELLS = {
    "accuracy": "acc: {accuracy:.4f}",
    "ties": "ties: {ties}",
    "chosen_score": "chosen score: {chosen_score:.4f} (std {chosen_std:.4f})",
    "rejected_score": "rejected score: {rejected_score:.4f} (std {rejected_std:.4f})",
    "margin": "margin: {margin:.4f}",
}
_TOLD_IN_OTHER_CELLS = ("loss", "chosen_std", "rejected_std")


class Reporter:
    """Writes one row per log step and one per evaluation; only the first process has one.

    Args:
        directory: of metrics.jsonl, or None.
        resumed_iteration: rows after it, of a run that was killed, are taken away.
        details: metrics that only evaluations report.
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
    ) -> None:
        self._details = details
        self._train_iters = train_iters
        self._batch_size = batch_size
        self._closing = ExitStack()
        self._rows = None
        self._tensorboard = None
        if directory is not None:
            path = directory / METRICS_NAME
            keep_rows(path, last_iteration=resumed_iteration)
            self._rows = self._closing.enter_context(path.open("a"))
        if tensorboard_dir is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._tensorboard = SummaryWriter(tensorboard_dir, purge_step=resumed_iteration + 1)
            self._closing.callback(self._tensorboard.close)
        self._bar = self._closing.enter_context(
            tqdm(total=train_iters, initial=resumed_iteration, unit="step", disable=not sys.stderr.isatty())
        )

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
            matmul_peak: FLOP/s that matrix products reach on all processes' devices together.
        """
        speed = {
            "tokens_per_second": summary.num_tokens / seconds,
            "computed_tokens_per_second": summary.num_computed_tokens / seconds,
            "pairs_per_second": summary.num_examples / seconds,
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
        self._write(row, iteration)
        cells = [
            f"iteration {iteration:8d}/{self._train_iters:8d}",
            f"consumed samples: {consumed_samples:12d}",
            f"elapsed time per iteration (ms): {1000 * seconds / num_steps:.1f}",
            f"learning rate: {learning_rate:.6E}",
            f"global batch size: {self._batch_size:5d}",
            *_step_cells(metrics),
            f"grad norm: {grad_norm:.3f}",
            f"tokens/s: {speed['tokens_per_second']:.1f}",
            f"computed tokens/s: {speed['computed_tokens_per_second']:.1f}",
            f"pairs/s: {speed['pairs_per_second']:.2f}",
            f"TFLOP/s: {speed['model_flops_per_second'] / 1e12:.3g}",
            f"of peak: {speed['matmul_share']:.1%}",
        ]
        if summary.num_padding:
            cells.append(f"padding tokens: {summary.num_padding}")
        if summary.num_truncated:
            cells.append(f"truncated: {summary.num_truncated}")
        self._line(" " + " | ".join(cells) + " |")
        self._bar.update(num_steps)

    def log_evaluation(self, summary: Summary, *, iteration: int, consumed_samples: int) -> None:
        """Report an evaluation after `iteration` steps."""
        counts = {"examples": summary.num_examples, "truncated": summary.num_truncated}
        values = {f"valid/{name}": value for name, value in {**summary.metrics, **counts}.items()}
        self._write({"iteration": iteration, "consumed_samples": consumed_samples, **values}, iteration)
        cells = [
            f"validation after iteration {iteration}",
            f"pairs: {summary.num_examples}",
            *_evaluation_cells(summary.metrics),
        ]
        self._line(" " + " | ".join(cells) + " |")

    def _write(self, row: dict[str, Any], iteration: int) -> None:
        if self._rows is not None:
            self._rows.write(json.dumps(row) + "\n")
            self._rows.flush()
        if self._tensorboard is not None:
            for name, value in row.items():
                if name != "iteration":
                    tag = name if "/" in name else f"train/{name}"
                    self._tensorboard.add_scalar(tag, value, iteration)

    def _line(self, text: str) -> None:
        tqdm.write(text, file=sys.stdout)  # above the bar, where there is one
        sys.stdout.flush()


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


def keep_rows(path: Path, *, last_iteration: int) -> None:
    """Take away the rows after `last_iteration`, and a last row that was cut off, if there are any."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            break
        if row["iteration"] <= last_iteration:
            kept.append(line + "\n")
    unfinished = path.with_name(path.name + ".tmp")
    unfinished.write_text("".join(kept))
    os.replace(unfinished, path)
    info(f"{path}: {len(kept)} rows kept up to iteration {last_iteration}")
