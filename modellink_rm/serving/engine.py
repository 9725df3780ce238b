"""The engine: batches of whatever waits, scored one after the other; several processes behind one server."""

import itertools
import time
from collections.abc import Sequence

import torch

from modellink_rm.dataset.example import Example
from modellink_rm.inference.scorer import Scorer
from modellink_rm.serving.job import Row, Sequences
from modellink_rm.serving.metrics import ServerMetrics
from modellink_rm.serving.sharing import Group, group_sequences
from modellink_rm.serving.waiting import Waiting

# The other processes hear from the first one at least so often: an exchange that waits longer than
# --distributed-timeout-minutes fails, and a process that is gone is noticed.
_SECONDS_BETWEEN_EXCHANGES = 5.0
# Sequences are looked for that begin as those of the next batch do, in so many batches' tokens.
_BATCHES_LOOKED_AT = 8
_WEIGHT_OF_THE_LAST_BATCH = 0.2


class Engine:
    """Takes rows from the queue and scores them, in the thread that calls `run`.

    A batch forms while the one before it is computed: the engine takes what waits when it is free, up to the
    tokens of one forward pass on every replica, with as many micro-batches as there are pipeline stages.

    Attributes:
        rows_per_second: of the last batches; 0.0 before the first.
    """

    def __init__(self, scorer: Scorer, waiting: Waiting, metrics: ServerMetrics) -> None:
        ranks, packing = scorer.model.ranks, scorer.model.packing
        self._scorer, self._waiting, self._metrics = scorer, waiting, metrics
        self._shares = packing.share_prefixes
        self._max_tokens = packing.max_tokens
        self._batch_tokens = packing.max_tokens * ranks.dp_size * ranks.pp_size
        self._is_alone = ranks.world_size == 1
        self._is_stopping = False
        self.rows_per_second = 0.0

    def stop(self) -> None:
        """Let `run` return once nothing waits; from any thread."""
        self._is_stopping = True
        self._waiting.wake()

    def run(self) -> None:
        """Score what waits until `stop`; then the other processes' `follow` returns too.

        Whatever ends it, no request is left without an answer.
        """
        error: Exception = RuntimeError("the server is stopping")
        try:
            while not (self._is_stopping and self._waiting.num_rows == 0):
                window = self._batch_tokens * _BATCHES_LOOKED_AT
                self._score(self._waiting.take(window, seconds=_SECONDS_BETWEEN_EXCHANGES))
            self._exchange(None)
        except BaseException as failure:
            error = RuntimeError(f"scoring failed: {failure}")
            raise
        finally:
            self._waiting.close(error)

    def _score(self, rows: Sequence[Row]) -> None:
        """Score the first batch of the rows, and return the others to the queue."""
        try:
            self._score_first_batch(rows)
        except BaseException as failure:
            for row in rows:
                row.job.fail(RuntimeError(f"scoring failed: {failure}"))
            raise

    def _score_first_batch(self, rows: Sequence[Row]) -> None:
        sequences = [row.ids for row in rows]
        groups = group_sequences(sequences, max_tokens=self._max_tokens, shares=self._shares)
        now, later = self._divided(groups)
        ends = [row.step_ends for row in rows]
        examples = [group.example(sequences, ends, index) for index, group in enumerate(now)]
        self._exchange(examples)
        self._waiting.put_back(
            [rows[member] for member in sorted(m for group in later for m in group.members)]
        )
        if not examples:
            return
        start = time.perf_counter()
        scores = self._scorer.score_examples(examples)
        self._count(now, time.perf_counter() - start, sequences)
        for group, example, found in zip(now, examples, scores, strict=True):
            rest = iter(found)
            for member, response in zip(group.members, example.responses, strict=True):
                of_member = tuple(itertools.islice(rest, len(response.scored_tokens)))
                rows[member].job.set_scores(rows[member].place, of_member)

    def _divided(self, groups: Sequence[Group]) -> tuple[list[Group], list[Group]]:
        """The groups of this batch, in order and at least one, and those of later ones."""
        num_tokens = 0
        for index, group in enumerate(groups):
            num_tokens += group.num_tokens
            if index and num_tokens > self._batch_tokens:
                return list(groups[:index]), list(groups[index:])
        return list(groups), []

    def _count(self, groups: Sequence[Group], seconds: float, sequences: Sequences) -> None:
        num_rows = sum(len(group.members) for group in groups)
        num_given = sum(len(sequences[member]) for group in groups for member in group.members)
        self._metrics.count_batch(
            num_rows=num_rows,
            num_tokens=num_given,
            num_computed=sum(group.num_tokens for group in groups),
            seconds=seconds,
        )
        rate = num_rows / max(seconds, 1e-6)
        weight = _WEIGHT_OF_THE_LAST_BATCH if self.rows_per_second else 1.0
        self.rows_per_second += weight * (rate - self.rows_per_second)

    def _exchange(self, examples: list[Example] | None) -> None:
        if not self._is_alone:
            torch.distributed.broadcast_object_list([examples], src=0)


def follow(scorer: Scorer) -> None:
    """Score what the first process scores, until it stops; in every other process."""
    while True:
        received: list[list[Example] | None] = [None]
        torch.distributed.broadcast_object_list(received, src=0)
        (examples,) = received
        if examples is None:
            return
        scorer.score_examples(examples)
