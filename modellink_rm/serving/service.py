"""What the routes call: requests to token ids in one thread, to scores in the engine's."""

import asyncio
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from modellink_rm.serving.inputs import Encoded, InputReader
from modellink_rm.serving.job import Job
from modellink_rm.serving.metrics import ServerMetrics
from modellink_rm.serving.waiting import QueueFullError, Waiting

Result = TypeVar("Result")
_MOST_SECONDS_TO_RETRY = 60


class TooManyResponsesError(RuntimeError):
    """A request has more responses than may wait at all."""


class TryLaterError(RuntimeError):
    """The queue is full.

    Attributes:
        seconds: when to try again.
    """

    def __init__(self, seconds: int) -> None:
        super().__init__("too many responses are waiting")
        self.seconds = seconds


class ScoringService:
    """Reads inputs and scores them, for an event loop.

    Args:
        rows_per_second: how fast the engine is; 0.0 while that is not known.

    Attributes:
        model_name: as answers call the model.
        step_aggregate: how the probabilities of steps make the score of a response.
    """

    def __init__(
        self,
        reader: InputReader,
        waiting: Waiting,
        metrics: ServerMetrics,
        *,
        rows_per_second: Callable[[], float],
        model_name: str,
        step_aggregate: str = "min",
    ) -> None:
        self.model_name, self.step_aggregate = model_name, step_aggregate
        self._reader, self._waiting, self._metrics = reader, waiting, metrics
        self._rows_per_second = rows_per_second
        # One thread: tokenizers and chat templates take turns anyway, and the event loop goes on.
        self._encoding = ThreadPoolExecutor(1, thread_name_prefix="encoding")

    def close(self) -> None:
        """End the thread that reads."""
        self._encoding.shutdown(wait=False, cancel_futures=True)

    async def read(self, call: Callable[[InputReader], Result], *, num_responses: int) -> Result:
        """What `call` makes of the reader, while the event loop goes on.

        Args:
            num_responses: of the request.

        Raises:
            TooManyResponsesError: there will never be room for them; none is read, which takes the more time
                and memory the more they are.
            RecordError: an input cannot be scored.
        """
        if num_responses > self._waiting.max_rows:
            raise TooManyResponsesError(
                f"{num_responses} responses in one request are more than "
                f"--max-waiting {self._waiting.max_rows}"
            )
        return await asyncio.get_running_loop().run_in_executor(self._encoding, call, self._reader)

    async def scores(self, inputs: Sequence[Encoded]) -> list[list[float]]:
        """The scores of each input's sequences, or the log-odds that its steps are right.

        A caller that is cancelled costs nothing more.

        Raises:
            TryLaterError: there is no room for them now.
            QueueClosedError: the engine has ended.
            NotFiniteError: a score is not finite.
            RuntimeError: scoring failed.
        """
        self._metrics.count_truncated(sum(one.is_truncated for one in inputs))
        job = await self._scored(inputs)
        scores = iter(job.scores)
        return [[score for _ in one.sequences for score in next(scores)] for one in inputs]

    async def _scored(self, inputs: Sequence[Encoded]) -> Job:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        job = Job(
            [ids for one in inputs for ids in one.sequences],
            lambda job: _tell(loop, done),
            step_ends=[one.step_ends for one in inputs for _ in one.sequences],
        )
        if not job.sequences:
            return job
        try:
            self._waiting.add(job)
        except QueueFullError:
            raise TryLaterError(self._seconds_to_retry()) from None
        try:
            await done
        finally:
            if done.cancelled():
                self._waiting.withdraw(job)
        if job.error is not None:
            raise job.error
        return job

    def _seconds_to_retry(self) -> int:
        """When half of what waits will be scored."""
        seconds = self._waiting.num_rows / 2 / (self._rows_per_second() or 1.0)
        return max(1, min(_MOST_SECONDS_TO_RETRY, math.ceil(seconds)))


def _tell(loop: asyncio.AbstractEventLoop, done: "asyncio.Future[None]") -> None:
    """Let the event loop know, from the engine's thread."""

    def set_result() -> None:
        if not done.done():
            done.set_result(None)

    if not loop.is_closed():
        loop.call_soon_threadsafe(set_result)
