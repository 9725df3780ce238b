"""The queue: bounded, in order, without what nobody waits for."""

import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

from modellink_rm.serving.job import Job, NotFiniteError
from modellink_rm.serving.waiting import QueueClosedError, QueueFullError, Waiting


def job_of(*lengths: int, deliver: Callable[[Job], None] = lambda job: None) -> Job:
    return Job([np.ones(length, dtype=np.int32) for length in lengths], deliver)


def test_rows_are_taken_in_order_up_to_the_budget_and_at_least_one() -> None:
    waiting = Waiting(10)
    first, second = job_of(50, 3, 4), job_of(4)
    waiting.add(first)
    waiting.add(second)
    taken = [waiting.take(8, seconds=0) for _ in range(3)]
    assert [[(row.job, row.place) for row in rows] for rows in taken] == [
        [(first, 0)],
        [(first, 1), (first, 2)],
        [(second, 0)],
    ]
    assert waiting.take(8, seconds=0) == []


def test_what_is_put_back_is_taken_first() -> None:
    waiting = Waiting(10)
    waiting.add(job_of(1, 1, 1))
    rows = waiting.take(100, seconds=0)
    waiting.add(job_of(1))
    waiting.put_back(rows[1:])
    assert waiting.take(100, seconds=0)[:2] == rows[1:]


def test_a_request_that_does_not_fit_is_refused_whole() -> None:
    waiting = Waiting(3)
    waiting.add(job_of(1, 1))
    with pytest.raises(QueueFullError):
        waiting.add(job_of(1, 1))
    assert waiting.num_rows == 2
    waiting.add(job_of(1))


def test_rows_of_a_client_that_left_are_never_taken_and_give_their_room_back() -> None:
    waiting = Waiting(3)
    gone, stays = job_of(1, 1), job_of(1)
    waiting.add(gone)
    waiting.add(stays)
    waiting.withdraw(gone)
    waiting.withdraw(gone)
    assert waiting.num_rows == 1
    waiting.add(job_of(1, 1))
    assert [row.job is gone for row in waiting.take(100, seconds=0)] == [False, False, False]
    assert waiting.num_rows == 0


def test_rows_that_were_withdrawn_while_they_were_out_are_not_counted() -> None:
    waiting = Waiting(3)
    gone = job_of(1, 1)
    waiting.add(gone)
    rows = waiting.take(100, seconds=0)
    waiting.withdraw(gone)
    waiting.put_back(rows)
    assert waiting.num_rows == 0
    assert waiting.take(100, seconds=0) == []
    assert waiting.num_rows == 0


def test_closing_fails_what_waits_and_refuses_what_comes() -> None:
    waiting, delivered = Waiting(3), []
    waiting.add(job_of(1, 1, deliver=delivered.append))
    waiting.close(RuntimeError("gone"))
    assert [str(job.error) for job in delivered] == ["gone"]
    with pytest.raises(QueueClosedError):
        waiting.add(job_of(1))


def test_a_take_that_waits_returns_at_once_when_it_is_woken() -> None:
    waiting = Waiting(3)
    threading.Timer(0.05, waiting.wake).start()
    start = time.monotonic()
    assert waiting.take(1, seconds=60) == []
    assert time.monotonic() - start < 30


def test_a_job_is_delivered_once_with_its_last_score() -> None:
    delivered: list[list[tuple[float, ...]]] = []
    job = job_of(1, 1, deliver=lambda job: delivered.append(list(job.scores)))
    job.set_scores(1, (2.0, 3.0))
    assert delivered == []
    job.set_scores(0, (1.0,))
    job.fail(RuntimeError("too late"))
    assert (delivered, job.error) == ([[(1.0,), (2.0, 3.0)]], None)


def test_a_score_that_is_not_finite_fails_its_job() -> None:
    job = job_of(1)
    job.set_scores(0, (1.0, float("nan")))
    assert isinstance(job.error, NotFiniteError)
