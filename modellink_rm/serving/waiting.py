"""The queue between the server's thread and the engine: bounded, first come first served."""

import threading
from collections import deque
from collections.abc import Sequence

from modellink_rm.serving.job import Job, Row


class QueueFullError(RuntimeError):
    """There is no room for a request's responses now."""


class QueueClosedError(RuntimeError):
    """The engine has ended; nothing is scored any more."""


class Waiting:
    """Responses that wait to be scored.

    Args:
        max_rows: how many may wait.
    """

    def __init__(self, max_rows: int) -> None:
        self.max_rows = max_rows
        self._rows: deque[Row] = deque()
        self._num_withdrawn = 0
        self._changed = threading.Condition()
        self._is_closed = False
        self._is_awake = False

    @property
    def num_rows(self) -> int:
        """How many wait, without those whose client has left."""
        return len(self._rows) - self._num_withdrawn

    def add(self, job: Job) -> None:
        """Queue all responses of a request, or none.

        Raises:
            QueueFullError: there is no room for them.
            QueueClosedError: there is no engine any more.
        """
        with self._changed:
            if self._is_closed:
                raise QueueClosedError
            if self.num_rows + len(job.sequences) > self.max_rows:
                raise QueueFullError
            self._rows.extend(Row(job, place) for place in range(len(job.sequences)))
            job.num_queued = len(job.sequences)
            self._changed.notify()

    def withdraw(self, job: Job) -> None:
        """Forget a request that nobody waits for: what is not computed yet never is."""
        with self._changed:
            if not job.is_withdrawn:
                job.is_withdrawn = True
                self._num_withdrawn += job.num_queued

    def take(self, max_tokens: int, *, seconds: float) -> list[Row]:
        """The first rows, up to `max_tokens` and at least one; none if none came in `seconds`."""
        with self._changed:
            if self.num_rows == 0 and not self._is_awake:
                self._changed.wait(seconds)
            taken: list[Row] = []
            num_tokens = 0
            while self._rows and (not taken or num_tokens + len(self._rows[0].ids) <= max_tokens):
                row = self._rows.popleft()
                row.job.num_queued -= 1
                if row.job.is_withdrawn:
                    self._num_withdrawn -= 1
                    continue
                taken.append(row)
                num_tokens += len(row.ids)
            return taken

    def wake(self) -> None:
        """Let `take` wait no more, now and later."""
        with self._changed:
            self._is_awake = True
            self._changed.notify_all()

    def put_back(self, rows: Sequence[Row]) -> None:
        """Return rows that were taken to the front, in their order."""
        with self._changed:
            for row in rows:
                row.job.num_queued += 1
                self._num_withdrawn += row.job.is_withdrawn
            self._rows.extendleft(reversed(rows))

    def close(self, error: Exception) -> None:
        """Refuse what comes, and fail what waits."""
        with self._changed:
            self._is_closed = True
            rows, self._rows = list(self._rows), deque()
            self._num_withdrawn = 0
        for job in {id(row.job): row.job for row in rows}.values():
            job.fail(error)
