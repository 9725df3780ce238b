"""A server in a worker process, without a network: its answers to a list of requests."""

import dataclasses
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Asked:
    """A request."""

    path: str
    body: Any = None
    method: str = "POST"
    headers: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: `json` of a body in JSON, else its text."""

    status: int
    json: Any
    headers: dict[str, str]


@contextmanager
def client_of(load: str, **options: Any) -> Iterator[tuple[Any, Any]]:
    """A client of a server of that model, and the scorer behind it."""
    from starlette.testclient import TestClient

    from modellink_rm import Scorer
    from modellink_rm.serving.app import build_app
    from modellink_rm.serving.engine import Engine
    from modellink_rm.serving.guard import Limits
    from modellink_rm.serving.inputs import InputReader
    from modellink_rm.serving.metrics import ServerMetrics
    from modellink_rm.serving.service import ScoringService
    from modellink_rm.serving.waiting import Waiting

    max_waiting = options.pop("max_waiting", 64)
    with Scorer.open(load, **options) as scorer:
        waiting = Waiting(max_waiting)
        metrics = ServerMetrics(lambda: waiting.num_rows)
        engine = Engine(scorer, waiting, metrics)
        reader = InputReader(scorer.inputs, num_ids=scorer.plan.model.shape.vocab_size)
        service = ScoringService(
            reader, waiting, metrics, rows_per_second=lambda: engine.rows_per_second, model_name="tiny"
        )
        limits = Limits(token=None, max_body_bytes=20_000, timeout_seconds=60.0)
        app = build_app(service, metrics, limits, is_ready=lambda: True)
        thread = threading.Thread(target=engine.run)
        thread.start()
        try:
            yield TestClient(app, raise_server_exceptions=False), scorer
        finally:
            engine.stop()
            thread.join()
            service.close()


def answers_of(load: str, asked: Sequence[Asked], records: Sequence[Any], **options: Any) -> Any:
    """The answers of a server to the requests, and what its Scorer says of records."""
    with client_of(load, **options) as (client, scorer):
        answers = []
        for one in asked:
            content = {"content": one.body} if isinstance(one.body, bytes) else {"json": one.body}
            headers = {"content-type": "application/json", **one.headers}
            found = client.request(
                one.method, one.path, headers=headers, **(content if one.body is not None else {})
            )
            is_json = found.headers.get("content-type", "").startswith("application/json")
            answers.append(
                Answer(found.status_code, found.json() if is_json else found.text, dict(found.headers))
            )
        return answers, scorer.score(records)


def scores_at_once(load: str, records: Sequence[Any], **options: Any) -> tuple[list[Any], list[Any], int]:
    """Scores of records asked all at a time, those of the Scorer one by one, and the number of batches."""
    import asyncio

    import httpx

    async def ask_all(app: Any) -> list[Any]:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://tiny", timeout=120) as client:
            found = await asyncio.gather(*(client.post("/v1/score", json=one) for one in records))
            metrics = (await client.get("/metrics")).text
        return [*(one.json() for one in found), metrics]

    with client_of(load, **options) as (client, scorer):
        *answers, metrics = asyncio.run(ask_all(client.app))
        alone = [scorer.score([one])[0] for one in records]
    line = next(line for line in metrics.splitlines() if line.startswith("modellink_rm_batch_seconds_count"))
    return [one.get("score", one.get("scores")) for one in answers], alone, int(float(line.split()[1]))
