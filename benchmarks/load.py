"""Clients of a reward server: many at a time, by aiohttp, some of them ill-behaved."""

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp

_TIMEOUT = aiohttp.ClientTimeout(total=600)


@dataclass(frozen=True)
class Question:
    """A request, and the scores that it must get."""

    body: Any
    scores: tuple[float, ...]


@dataclass
class Outcome:
    """What the clients saw.

    Attributes:
        latencies: seconds of every request that got its scores.
        rows: scores that came before the time was over.
        wrong: requests of which a score is another one.
        largest_difference: of a score from the expected one.
        other: what else was seen, by kind.
        seconds: of the whole load.
    """

    latencies: list[float] = field(default_factory=list)
    rows: int = 0
    wrong: int = 0
    largest_difference: float = 0.0
    other: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    @property
    def rows_per_second(self) -> float:
        return self.rows / self.seconds

    def percentile(self, share: float) -> float:
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


Read = Callable[[Any], list[float]]
IllBehaved = Callable[[aiohttp.ClientSession, str, random.Random, Outcome], Awaitable[None]]


async def run_load(
    url: str,
    path: str,
    questions: Sequence[Question],
    read: Read,
    *,
    num_clients: int,
    seconds: float,
    ill_behaved: Sequence[IllBehaved] = (),
    at_end: Callable[[], None] = lambda: None,
    tolerance: float = 1e-4,
) -> Outcome:
    """Let the clients ask, each its next question when it has an answer, until the time is over.

    Args:
        read: the scores in an answer, as the client's code reads it.
        ill_behaved: clients of these kinds, a few of each, ask beside the others.
        at_end: called when the time is over, while requests are under way; they are waited for.
    """
    outcome, end = Outcome(), time.monotonic() + seconds
    connector = aiohttp.TCPConnector(limit=0)
    start = time.monotonic()
    async with aiohttp.ClientSession(timeout=_TIMEOUT, connector=connector) as session:

        async def ask_often(number: int) -> None:
            choices = random.Random(number)
            while time.monotonic() < end:
                await _ask(session, url + path, choices.choice(questions), read, outcome, tolerance)

        async def misbehave(kind: IllBehaved, number: int) -> None:
            choices = random.Random(number)
            while time.monotonic() < end:
                with contextlib.suppress(aiohttp.ClientError, OSError, asyncio.TimeoutError):
                    await kind(session, url, choices, outcome)
                await asyncio.sleep(choices.uniform(0.05, 0.5))

        tasks = [asyncio.create_task(ask_often(number)) for number in range(num_clients)]
        tasks += [asyncio.create_task(misbehave(kind, number)) for kind in ill_behaved for number in range(5)]
        await asyncio.sleep(max(0.0, end - time.monotonic()))
        outcome.seconds = time.monotonic() - start
        at_end()
        await asyncio.gather(*tasks)
    return outcome


async def _ask(
    session: aiohttp.ClientSession,
    url: str,
    question: Question,
    read: Read,
    outcome: Outcome,
    tolerance: float,
) -> None:
    start = time.monotonic()
    try:
        async with session.post(url, json=question.body) as answer:
            if answer.status != 200:
                outcome.other[f"status {answer.status}"] += 1
                return
            scores = read(await answer.json())
    except aiohttp.ClientConnectorError:
        outcome.other["not let in any more"] += 1
        return
    except (aiohttp.ClientError, OSError) as error:
        outcome.other[f"no answer ({type(error).__name__})"] += 1
        return
    outcome.latencies.append(time.monotonic() - start)
    outcome.rows += len(scores) * (not outcome.seconds)
    differences = [abs(one - expected) for one, expected in zip(scores, question.scores, strict=True)]
    difference = max(differences)
    outcome.largest_difference = max(outcome.largest_difference, difference)
    outcome.wrong += difference > tolerance


async def malformed(
    session: aiohttp.ClientSession, url: str, choices: random.Random, outcome: Outcome
) -> None:
    bodies = (
        b'{"query": ',
        b"[" * 5000,
        b'{"query": {"a": 1}}',
        b"\xff\xfe",
        b'{"prompt": 1, "response": 2}',
    )
    path = choices.choice(("/get_reward", "/v1/score", "/classify"))
    headers = {"Content-Type": "application/json"}
    async with session.post(url + path, data=choices.choice(bodies), headers=headers) as answer:
        outcome.other[f"malformed: {answer.status}"] += 1


async def oversized(
    session: aiohttp.ClientSession, url: str, choices: random.Random, outcome: Outcome
) -> None:
    async def parts() -> Any:
        for _ in range(40):
            yield b" " * (1 << 20)

    data: Any = parts() if choices.random() < 0.5 else b" " * (20 << 20)
    async with session.post(url + "/get_reward", data=data) as answer:
        outcome.other[f"oversized: {answer.status}"] += 1


async def slow(session: aiohttp.ClientSession, url: str, choices: random.Random, outcome: Outcome) -> None:
    async def parts() -> Any:
        for part in (b'{"prompt": "the cat",', b' "response": ', b'"sings"}'):
            await asyncio.sleep(choices.uniform(0.1, 2))
            yield part

    headers = {"Content-Type": "application/json"}
    async with session.post(url + "/v1/score", data=parts(), headers=headers) as answer:
        outcome.other[f"slow: {answer.status}"] += 1


async def vanishing(
    session: aiohttp.ClientSession, url: str, choices: random.Random, outcome: Outcome
) -> None:
    body = {"prompt": "the moon " * 50, "responses": ["falls " * 20] * 8}
    try:
        async with asyncio.timeout(choices.uniform(0.001, 0.2)):
            async with session.post(url + "/v1/score", json=body) as answer:
                outcome.other[f"vanishing: {answer.status}"] += 1
    except TimeoutError:
        outcome.other["vanishing: left"] += 1


ILL_BEHAVED: tuple[IllBehaved, ...] = (malformed, oversized, slow, vanishing)
