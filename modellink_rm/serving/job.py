"""A request's responses, from the queue to their scores."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from modellink_rm.inference.result import NOT_FINITE
from modellink_rm.serving.sharing import Ends

Sequences = Sequence[NDArray[np.int32]]


class NotFiniteError(RuntimeError):
    """A score of a request is NaN or infinite."""


class Job:
    """The token ids of one request, and their scores once they are there.

    Args:
        sequences: int32 [num_tokens] of each response with its prompt.
        deliver: called once, by the engine, when every score is there or none will be.
        step_ends: of each sequence, where its steps end; None for one that is scored at its end, or for all.

    Attributes:
        scores: of each sequence, or of its steps; NaN as long as it is not scored.
        error: why there are no scores; None while there may be.
        is_withdrawn: nobody waits for it any more.
        num_queued: how many of its sequences are in the queue, which counts them.
    """

    def __init__(
        self,
        sequences: Sequences,
        deliver: "Callable[[Job], None]",
        *,
        step_ends: Sequence[Ends] | None = None,
    ) -> None:
        self.sequences = tuple(sequences)
        self.step_ends = tuple(step_ends) if step_ends is not None else (None,) * len(self.sequences)
        self.scores: list[tuple[float, ...]] = [(math.nan,)] * len(self.sequences)
        self.error: Exception | None = None
        self.is_withdrawn = False
        self.num_queued = 0
        self._deliver = deliver
        self._num_missing = len(self.sequences)

    @property
    def num_tokens(self) -> int:
        """Tokens of all sequences, a prompt counted with each."""
        return sum(map(len, self.sequences))

    def set_scores(self, place: int, scores: tuple[float, ...]) -> None:
        """Keep a sequence's score, or those of its steps, and deliver the job with its last ones."""
        if not all(map(math.isfinite, scores)):
            self.error = NotFiniteError(NOT_FINITE)
        self.scores[place] = scores
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

    @property
    def step_ends(self) -> Ends:
        """Where its steps end; None if it is scored at its end."""
        return self.job.step_ends[self.place]
