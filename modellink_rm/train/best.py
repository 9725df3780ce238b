"""Which evaluation of a run is the best so far, and whether the run still improves."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from modellink_rm.base.log import info
from modellink_rm.checkpoint.layout import checkpoint_directory
from modellink_rm.report.best import FILE_NAME, BestCheckpoint, read_best, write_best
from modellink_rm.train.metrics_files import rows_until

LOWEST_IS_BEST = "loss"


@dataclass
class BestSoFar:
    """The best evaluation of the metric of --save-best, equal on every process.

    Attributes:
        metric: as metrics.jsonl names it: valid/accuracy.
        patience: of --early-stopping-patience.
        best: None before the first evaluation after a step.
        num_worse: evaluations since the best one.
    """

    metric: str
    patience: int | None = None
    best: BestCheckpoint | None = None
    num_worse: int = 0

    @property
    def is_exhausted(self) -> bool:
        """Whether the run is to end."""
        return self.patience is not None and self.num_worse >= self.patience

    def add(self, values: Mapping[str, float], iteration: int) -> bool:
        """Take in an evaluation; True if it is the best so far. An equal value is no improvement.

        Args:
            values: by the names of metrics.jsonl. An evaluation without the metric, or before the first step,
                does not count.
        """
        if self.metric not in values or iteration == 0:
            return False
        value = float(values[self.metric])
        found = BestCheckpoint(iteration=iteration, metric=self.metric, value=value)
        improves = not math.isnan(value) and (self.best is None or _is_better(found, self.best))
        if improves:
            self.best = found
            self.num_worse = 0
        else:
            self.num_worse += 1
        return improves

    def add_rows(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Take in the evaluations of a run that is resumed, from its metrics.jsonl."""
        for row in rows:
            self.add(row, row["iteration"])


def _is_better(one: BestCheckpoint, other: BestCheckpoint) -> bool:
    """Whether the first is the better one by their metric; an equal value is no improvement."""
    sign = -1 if one.metric.endswith(f"/{LOWEST_IS_BEST}") else 1
    return sign * one.value > sign * other.value


def best_so_far(
    metric: str, *, patience: int | None, metrics_file: Path, resumed_iteration: int, rank: int
) -> BestSoFar:
    """The best evaluation of a run up to the step that it is resumed at; a collective.

    Args:
        metrics_file: of the run, which the first process alone reads, since it also writes it.
    """
    known: list[Any] = [None]
    if rank == 0:
        lines = rows_until(metrics_file, resumed_iteration) if resumed_iteration else []
        known = [[json.loads(line) for line in lines]]
    torch.distributed.broadcast_object_list(known, src=0)
    found = BestSoFar(metric=metric, patience=patience)
    found.add_rows(known[0])
    return found


def correct_best(root: Path, iteration: int, best: BestSoFar | None) -> None:
    """Let best.json under --save name the best checkpoint of a resumed run, by its metric of now.

    A run that was taken back to an earlier checkpoint writes its own ones in the place of those beyond. One
    that was begun without --save-best may have saved at its best evaluation, or not. One that was killed
    may have saved its best checkpoint and not said so yet.

    Args:
        iteration: of the run now.
        best: of the run so far; None without --save-best.
    """
    named = read_best(root)
    found = best.best if best is not None else None
    if named is None and found is None:
        return
    is_there = found is not None and checkpoint_directory(root, found.iteration).is_dir()
    is_of_metric = named is not None and (best is None or best.metric == named.metric)
    if named is not None and named.iteration <= iteration and is_of_metric:
        is_best = found is None or not _is_better(found, named)
        if is_best or not is_there:
            return
    told = "none"
    if found is not None:
        told = f"{found.metric} {found.value:.4f} at iteration {found.iteration}"
    if found is not None and is_there:
        write_best(root, found)
    else:
        (root / FILE_NAME).unlink(missing_ok=True)
        told += " whose checkpoint is there" if found is None else ", whose checkpoint is not there"
    before = "" if named is None else f"; {FILE_NAME} named {named.metric} at iteration {named.iteration}"
    info(f"best so far: {told}{before}")
