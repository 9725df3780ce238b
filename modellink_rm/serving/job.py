"""A request's responses, from the queue to their scores."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from modellink_rm.inference.result import NOT_FINITE

Sequences = Sequence[NDArray[np.int32]]


class NotFiniteError(RuntimeError):
    """A score of a request is NaN or infinite."""


class Job:
    """The token ids of one request, and their scores once they are there.

    Args:
        sequences: int32 [num_tokens] of each response with its prompt.
        deliver: called once, by the engine, when every score is there or none will be.

    Attributes:
        scores: of each sequence, NaN as long as it is not scored.
        error: why there are no scores; None while there may be.
        is_withdrawn: nobody waits for it any more.
        num_queued: how many of its sequences are in the queue, which counts them.
    """

    def __init__(self, sequences: Sequences, deliver: "Callable[[Job], None]") -> None:
        self.sequences = tuple(sequences)
        self.scores = [math.nan] * len(self.sequences)
        self.error: Exception | None = None
        self.is_withdrawn = False
        self.num_queued = 0
        self._deliver = deliver
        self._num_missing = len(self.sequences)

    @property
    def num_tokens(self) -> int:
        """Tokens of all sequences, a prompt counted with each."""
        return sum(map(len, self.sequences))

    def set_score(self, place: int, score: float) -> None:
        """Keep a sequence's score, and deliver the job with its last one."""
        if not math.isfinite(score):
            self.error = NotFiniteError(NOT_FINITE)
        self.scores[place] = score
        self._num_missing -= 1
        if self._num_missing == 0:
            self._deliver(self)

    def fail(self, error: Exception) -> None:
        """Deliver the job without scores, unless it has been delivered."""
        if self._num_missing > 0:
            self.error, self._num_missing = error, 0
            self._deliver(self)


class Row(NamedTuple):
    """One sequence of a job."""

    job: Job
    place: int

    @property
    def ids(self) -> NDArray[np.int32]:
        """Its token ids, int32."""
        return self.job.sequences[self.place]
