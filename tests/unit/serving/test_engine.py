"""The engine: batches of what waits, in order, and an answer to everything."""

import threading
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from modellink_rm.dataset.example import Example
from modellink_rm.serving.engine import Engine
from modellink_rm.serving.job import Job
from modellink_rm.serving.metrics import ServerMetrics
from modellink_rm.serving.waiting import QueueClosedError, Waiting

MAX_TOKENS = 100


class LengthScorer:
    """Scores a response by its number of tokens, and remembers each batch."""

    def __init__(self, *, fails: bool = False) -> None:
        ranks = SimpleNamespace(dp_size=1, pp_size=1, world_size=1)
        self.model = SimpleNamespace(
            ranks=ranks, packing=SimpleNamespace(share_prefixes=True, max_tokens=MAX_TOKENS)
        )
        self.batches: list[list[int]] = []
        self.may_go = threading.Event()
        self.may_go.set()
        self.has_begun = threading.Event()
        self._fails = fails

    def score_examples(self, examples: Sequence[Example]) -> list[tuple[float, ...]]:
        self.has_begun.set()
        assert self.may_go.wait(30)
        if self._fails:
            raise MemoryError("no memory for a batch")
        scores = [tuple(float(len(one.input_ids)) for one in example.responses) for example in examples]
        self.batches.append([len(one) for one in scores])
        return scores


class Running:
    """An engine in a thread, and the jobs that it delivered."""

    def __init__(self, scorer: LengthScorer) -> None:
        self.scorer, self.waiting = scorer, Waiting(100)
        self.metrics = ServerMetrics(lambda: self.waiting.num_rows)
        self.engine = Engine(scorer, self.waiting, self.metrics)  # type: ignore[arg-type]
        self.delivered: list[Job] = []
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            self.engine.run()
        except BaseException as error:
            self.error = error

    def add(self, *lengths: int, first: int = 0) -> Job:
        sequences = [np.arange(first + 1000 * n, first + 1000 * n + length, dtype=np.int32) for n, length in
                     enumerate(lengths)]  # fmt: skip
        job = Job(sequences, self.delivered.append)
        self.waiting.add(job)
        return job

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self.engine.stop()
        self._thread.join(30)
        assert not self._thread.is_alive()


@pytest.fixture
def running() -> Any:
    return Running(LengthScorer())


def test_every_job_gets_its_own_scores_in_its_order(running: Running) -> None:
    jobs = [running.add(*lengths, first=10_000 * n) for n, lengths in enumerate([(30, 5), (90,), (7, 7, 7)])]
    running.start()
    running.end()
    assert [job.scores for job in jobs] == [[(30,), (5,)], [(90,)], [(7,)] * 3]
    assert sorted(map(id, running.delivered)) == sorted(map(id, jobs))


def test_a_batch_forms_while_the_one_before_is_computed(running: Running) -> None:
    running.scorer.may_go.clear()
    running.add(10)
    running.start()
    assert running.scorer.has_begun.wait(30)
    for number in range(1, 6):
        running.add(10, first=5000 * number)
    running.scorer.may_go.set()
    running.end()
    assert running.scorer.batches == [[1], [1] * 5]


def test_a_batch_is_one_forward_pass_and_a_longer_request_gets_its_own(running: Running) -> None:
    running.add(60, 60, 300, 40)
    running.start()
    running.end()
    assert running.scorer.batches == [[1], [1], [1], [1]]


def test_later_requests_with_the_beginning_of_an_earlier_one_are_scored_with_it(running: Running) -> None:
    running.add(80)
    running.add(90, first=50_000)
    running.add(85)  # begins as the first
    running.start()
    running.end()
    assert running.scorer.batches == [[2], [1]]


def test_a_client_that_left_is_not_scored(running: Running) -> None:
    gone = running.add(10)
    running.add(20, first=7000)
    running.waiting.withdraw(gone)
    running.start()
    running.end()
    assert running.scorer.batches == [[1]]
    assert gone not in running.delivered


def test_a_failure_is_answered_to_all_and_ends_the_engine() -> None:
    running = Running(LengthScorer(fails=True))
    jobs = [running.add(90, first=1000 * number) for number in range(3)]
    running.start()
    running.end()
    assert isinstance(running.error, MemoryError)
    assert {str(job.error) for job in jobs} == {"scoring failed: no memory for a batch"}
    with pytest.raises(QueueClosedError):
        running.add(1)


def test_batches_are_counted(running: Running) -> None:
    running.add(80)
    running.add(85)
    running.start()
    running.end()
    text = running.metrics.text().decode()
    for line in ("responses_scored_total 2.0", "tokens_scored_total 165.0", "tokens_computed_total 85.0"):
        assert f"modellink_rm_{line}" in text
    assert running.engine.rows_per_second > 0
