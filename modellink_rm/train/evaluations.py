"""The evaluations of a run: every held-out set, its report, and the scores before and after training."""

import functools
import json
from collections.abc import Iterator
from pathlib import Path

import torch

from modellink_rm.batching.micro_batches import Packing
from modellink_rm.dataset.blend import Part
from modellink_rm.parallel.groups import Ranks
from modellink_rm.report.run_files import SCORES_NAME, TRAINING, ScoredExample
from modellink_rm.train.best import BestSoFar
from modellink_rm.train.evaluate import Evaluation, evaluate
from modellink_rm.train.held_out import scored_examples, training_sample
from modellink_rm.train.metrics_files import rows_until
from modellink_rm.train.optimizer import TrainState
from modellink_rm.train.plan import RunPlan
from modellink_rm.train.reporting import StepLog


class Evaluations:
    """Evaluates the held-out sets of a run with its weights as they are, and reports that.

    Args:
        best: takes in every evaluation; None without --save-best.
    """

    def __init__(
        self,
        plan: RunPlan,
        state: TrainState,
        log: StepLog,
        best: BestSoFar | None,
        *,
        packing: Packing,
        ranks: Ranks,
        device: torch.device,
    ) -> None:
        self._plan = plan
        self._state = state
        self._log = log
        self._best = best
        self._evaluate = functools.partial(
            evaluate,
            state.model,
            batch_size=plan.batch_size,
            packing=packing,
            ranks=ranks,
            device=device,
        )
        self._latest: list[tuple[Evaluation, Part]] = []

    def evaluate(self) -> None:
        """Evaluate every set without a report; a collective."""
        self._latest = [
            (self._evaluate(part=one.part, objective=one.objective, name=one.name), one.part)
            for one in self._plan.held_out
        ]

    def make(self, *, is_last: bool = False) -> bool:
        """Evaluate every set and report it; a collective.

        The state of a run that is not to go on says so.

        Returns:
            Whether this is the best evaluation so far, by the metric of --save-best.
        """
        self.evaluate()
        self._log.evaluations([evaluation for evaluation, _ in self._latest])
        values = {
            f"{evaluation.set}/{metric}": value
            for evaluation, _ in self._latest
            for metric, value in evaluation.summary.metrics.items()
        }
        improves = self._best is not None and self._best.add(values, self._state.iteration)
        self._state.is_stopped = self._best is not None and self._best.is_exhausted and not is_last
        return improves

    def write_scores(self) -> None:
        """Write the scores of the latest evaluations, and of a sample of the training part; a collective.

        That is for before the first step and after the last one. A run that evaluates nothing, or keeps
        nothing, writes none.
        """
        training = self._plan.config.training
        if not self._latest or self._plan.config.checkpoint.save is None:
            return
        sample = training_sample(
            self._plan.blend, batch_size=self._plan.batch_size, eval_iters=training.eval_iters
        )
        self._latest.append(
            (self._evaluate(part=sample, objective=self._plan.objective, name=TRAINING), sample)
        )
        self._log.scores(self._lines())

    def _lines(self) -> Iterator[ScoredExample]:
        """The lines of the latest evaluations; after training with the texts of extreme examples."""
        iteration = self._state.iteration
        for evaluation, part in self._latest:
            yield from scored_examples(
                evaluation, part, iteration=iteration, tokenizer=self._plan.tokenizer if iteration else None
            )


def has_scores(directory: Path, iteration: int, *, rank: int) -> bool:
    """Whether scores.jsonl under --save has rows of that iteration, equal on every process; a collective."""
    found = [True]
    if rank == 0:
        lines = rows_until(directory / SCORES_NAME, iteration)
        found = [any(json.loads(line)["iteration"] == iteration for line in reversed(lines))]
    torch.distributed.broadcast_object_list(found, src=0)
    return found[0]
