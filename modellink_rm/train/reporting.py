"""A run's reports: a row per log step and evaluation, to the console, metrics.jsonl and trackers."""

import dataclasses
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modellink_rm.base.log import info, is_first_process
from modellink_rm.base.platform import Platform, matmul_flops_per_second
from modellink_rm.objective.objective import Labels
from modellink_rm.report.run_files import METRICS_NAME, SCORES_NAME, TRAINING, ScoredExample
from modellink_rm.train.console import make_console
from modellink_rm.train.data_sets import DataSetMetrics, DataSets
from modellink_rm.train.evaluate import Evaluation
from modellink_rm.train.metrics_files import RowsFile
from modellink_rm.train.optimizer import TrainState
from modellink_rm.train.plan import RunPlan
from modellink_rm.train.routers import expert_loads, no_router_sums, router_metrics
from modellink_rm.train.sums import Summary, Sums, no_sums, sum_over_processes, summary_of
from modellink_rm.train.trackers import Tracker, open_trackers


class StepLog:
    """Adds up the steps between log lines and reports them from the first process."""

    def __init__(self, plan: RunPlan, state: TrainState, platform: Platform) -> None:
        self._state = state
        self._platform = platform
        self._interval = plan.config.reporting.log_interval
        self._objective = plan.objective
        self._shape = plan.model.shape
        self._data_sets = DataSets(plan.blend.train)
        self._sums = self._no_sums()
        self._num_steps = 0
        self._reporter = None
        if is_first_process():
            save = plan.config.checkpoint.save
            directory = Path(save) if save else None
            self._reporter = Reporter(
                directory=directory,
                trackers=open_trackers(
                    plan.config.reporting,
                    directory=directory,
                    resumed_iteration=state.iteration,
                    flags=dataclasses.asdict(plan.config),
                ),
                train_iters=plan.train_iters,
                batch_size=plan.batch_size,
                num_train_examples=plan.blend.mixture.epoch_size,
                resumed_iteration=state.iteration,
                details=plan.objective.details,
                labels=plan.objective.labels,
            )
        self._matmul_peak = _matmul_peak(platform, plan.config.precision.dtype)
        self._started = time.perf_counter()

    def __enter__(self) -> "StepLog":
        return self

    def __exit__(self, *error: object) -> None:
        if self._reporter is not None:
            self._reporter.close()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """A block whose time does not count as time of the steps."""
        started = time.perf_counter()
        yield
        self._started += time.perf_counter() - started

    def step(self, sums: Sums, *, grad_norm: float, learning_rate: float, ends: bool) -> None:
        """Take in one step; every process calls it, since log steps reduce the sums over all.

        Args:
            ends: no step follows.
        """
        self._sums += sums
        self._num_steps += 1
        iteration = self._state.iteration
        if self._reporter is not None:
            self._reporter.step_done(iteration)
        if iteration % self._interval and not ends:
            return
        total = self._sums.over_processes()
        summary = summary_of(total, self._objective)
        summary.metrics.update(router_metrics(total, self._shape, summary.num_examples))
        self._platform.synchronize()
        seconds = time.perf_counter() - self._started
        if self._reporter is not None:
            self._reporter.log_steps(
                summary,
                iteration=iteration,
                consumed_samples=self._state.consumed_samples,
                learning_rate=learning_rate,
                grad_norm=grad_norm,
                seconds=seconds,
                num_steps=self._num_steps,
                matmul_peak=self._matmul_peak,
                loads=expert_loads(total, self._shape),
                by_data_set=self._data_sets.metrics(total),
            )
        self._sums = self._no_sums()
        self._num_steps = 0
        self._started = time.perf_counter()

    def _no_sums(self) -> Sums:
        """Sums of zeros."""
        device = self._platform.device
        sums = no_sums(self._objective, device).joined(no_router_sums(self._shape, device))
        return sums.joined(self._data_sets.no_sums(device))

    def evaluations(self, evaluations: Sequence[Evaluation]) -> None:
        """Report an evaluation of every held-out set."""
        if self._reporter is not None:
            for one in evaluations:
                self._reporter.log_evaluation(
                    one, iteration=self._state.iteration, consumed_samples=self._state.consumed_samples
                )

    def scores(self, examples: Iterable[ScoredExample]) -> None:
        """Write lines of scores.jsonl, where the run has a --save; the first process alone reads them."""
        if self._reporter is not None:
            self._reporter.write_scores(examples)


class Reporter:
    """Writes one row per log step and one per evaluation; only the first process has one.

    Args:
        directory: of metrics.jsonl and scores.jsonl, or None.
        trackers: further programs that get the rows; closed with this.
        num_train_examples: samples of one epoch.
        resumed_iteration: later rows, of a run that was killed, are removed.
        details: metrics that only evaluations report.
        labels: how lines show the metrics.
    """

    def __init__(
        self,
        *,
        directory: Path | None,
        trackers: Sequence[Tracker],
        train_iters: int,
        batch_size: int,
        num_train_examples: int,
        resumed_iteration: int,
        details: Sequence[str],
        labels: Labels,
    ) -> None:
        self._details = details
        self._labels = labels
        self._closing = ExitStack()
        self._num_train_examples = num_train_examples
        self._rows = None
        self._scores = None
        if directory is not None:
            self._rows = RowsFile(directory / METRICS_NAME, resumed_iteration=resumed_iteration)
            self._scores = RowsFile(directory / SCORES_NAME, resumed_iteration=resumed_iteration)
        self._trackers = tuple(trackers)
        for tracker in self._trackers:
            self._closing.callback(tracker.close)
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
        loads: Mapping[int, float] | None = None,
        by_data_set: DataSetMetrics | None = None,
    ) -> None:
        """Report the last `num_steps` steps, which took `seconds`.

        Args:
            matmul_peak: FLOP/s that matrix products reach on the devices of all processes together.
            loads: of each layer with experts, the load of the most loaded one over their mean.
            by_data_set: metrics of each data set, where there are several.
        """
        by_data_set = by_data_set or {}
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
            "epoch": consumed_samples / self._num_train_examples,
            **metrics,
            "grad_norm": grad_norm,
            "learning_rate": learning_rate,
            **speed,
            "padding_tokens": summary.num_padding,
            "truncated": summary.num_truncated,
            **_named_metrics(TRAINING, by_data_set),
        }
        self._write(row, {f"experts/load_of_layer_{layer}": load for layer, load in (loads or {}).items()})
        self._console.step(row, metrics, milliseconds=1000 * seconds / num_steps)
        if by_data_set:
            self._console.data_sets(by_data_set, name=TRAINING, iteration=iteration)

    def step_done(self, iteration: int) -> None:
        """Report that a step is done, without waiting for the device."""
        self._console.advance(iteration)

    def log_evaluation(self, evaluation: Evaluation, *, iteration: int, consumed_samples: int) -> None:
        """Report an evaluation after `iteration` steps."""
        summary, name = evaluation.summary, evaluation.set
        counts = {"examples": summary.num_examples, "truncated": summary.num_truncated}
        values = {**summary.metrics, **counts}
        row = {f"{name}/{metric}": value for metric, value in values.items()}
        row |= _named_metrics(name, evaluation.by_data_set)
        row |= _named_metrics(name, _apart(evaluation.by_source, evaluation.by_data_set))
        self._write({"iteration": iteration, "consumed_samples": consumed_samples, **row})
        if evaluation.scores:
            best = np.concatenate([one[:1] for one in evaluation.scores])
            others = np.concatenate([one[1:] for one in evaluation.scores])
            kinds = {"chosen_scores": best, "rejected_scores": others} if len(others) else {"scores": best}
            for tracker in self._trackers:
                for kind, values_of_kind in kinds.items():
                    tracker.histogram(f"{name}/{kind}", values_of_kind, iteration)
        self._console.evaluation(
            summary.metrics, name=name, iteration=iteration, num_examples=summary.num_examples
        )
        if evaluation.by_data_set:
            self._console.data_sets(evaluation.by_data_set, name=name, iteration=iteration)

    def write_scores(self, examples: Iterable[ScoredExample]) -> None:
        """Append to scores.jsonl; nothing without --save."""
        if self._scores is not None:
            self._scores.add_together(one.to_json() for one in examples)

    def _write(self, row: dict[str, Any], more: Mapping[str, float] | None = None) -> None:
        """Write a row, and further values that only trackers get."""
        if self._rows is not None:
            self._rows.add(row)
        values = {**row, **(more or {})}
        iteration = values.pop("iteration")
        named = {name if "/" in name else f"train/{name}": value for name, value in values.items()}
        for tracker in self._trackers:
            tracker.add(named, iteration)


def _named_metrics(prefix: str, metrics: DataSetMetrics) -> dict[str, float]:
    """The metrics of data sets or sources as columns: train/math/loss."""
    return {
        f"{prefix}/{name}/{metric}": value
        for name, of_name in metrics.items()
        for metric, value in of_name.items()
    }


def _apart(sources: DataSetMetrics, data_sets: DataSetMetrics) -> DataSetMetrics:
    """The metrics of sources; one that is called as a data set has an apostrophe after its name."""
    found: dict[str, Mapping[str, float]] = {}
    for name, metrics in sources.items():
        while name in data_sets or name in found:
            name += "'"
        found[name] = metrics
    return found


def _matmul_peak(platform: Platform, dtype: torch.dtype) -> float:
    """FLOP/s that matrix products reach on the devices of all processes together.

    All processes measure at the same time, because they also train at the same time and may share cores.
    """
    torch.distributed.barrier()
    peak = torch.tensor([matmul_flops_per_second(platform.device, dtype)], dtype=torch.float64)
    total = float(sum_over_processes(peak.to(platform.device)))
    num_processes = torch.distributed.get_world_size()
    name = str(dtype).removeprefix("torch.")
    info(f"matmul peak: {total / num_processes / 1e12:.3g} TFLOP/s a process in {name}")
    return total
