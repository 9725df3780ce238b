"""What clients are told while the engine is busy, has failed or has ended: the application alone."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from modellink_rm.base.errors import UserError
from modellink_rm.config.tokenizer import TokenizerConfig
from modellink_rm.inference.reader import RecordReader
from modellink_rm.inference.record_tokenizer import RecordTokenizer
from modellink_rm.serving.app import build_app
from modellink_rm.serving.guard import Limits
from modellink_rm.serving.inputs import InputReader
from modellink_rm.serving.metrics import ServerMetrics
from modellink_rm.serving.service import ScoringService
from modellink_rm.serving.waiting import Waiting
from modellink_rm.templates.table import TEMPLATES
from modellink_rm.tokenizers.load import load_tokenizer
from tests.tiny_data import write_tokenizer

ONE = {"prompt": "the cat", "response": "sings"}
Client = httpx.AsyncClient


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> InputReader:
    directory = write_tokenizer(tmp_path_factory.mktemp("service"))
    inputs = RecordTokenizer(
        reader=RecordReader(),
        template=TEMPLATES["llama2"],
        tokenizer=load_tokenizer(TokenizerConfig(tokenizer_name_or_path=str(directory))),
        seq_length=64,
        truncation="right",
    )
    return InputReader(inputs, num_ids=300)


class Application:
    """The application with a queue that nobody empties."""

    def __init__(self, reader: InputReader, *, max_waiting: int, timeout_seconds: float = 60.0) -> None:
        self.waiting = Waiting(max_waiting)
        self.metrics = ServerMetrics(lambda: self.waiting.num_rows)
        self.rows_per_second = 0.0
        self.is_ready = True
        service = ScoringService(
            reader,
            self.waiting,
            self.metrics,
            rows_per_second=lambda: self.rows_per_second,
            model_name="tiny",
        )
        limits = Limits(token=None, max_body_bytes=10_000, timeout_seconds=timeout_seconds)
        self._app = build_app(service, self.metrics, limits, is_ready=lambda: self.is_ready)

    def run(self, call: Callable[[Client], Awaitable[Any]]) -> Any:
        async def with_client() -> Any:
            transport = httpx.ASGITransport(app=self._app)
            async with Client(transport=transport, base_url="http://tiny", timeout=60) as client:
                return await asyncio.wait_for(call(client), 60)

        return asyncio.run(with_client())

    async def until_waiting(self, number: int) -> None:
        while self.waiting.num_rows != number:
            await asyncio.sleep(0.005)


def answer_of(error: Any) -> tuple[int, str]:
    return error.status_code, error.json()["error"]["message"]


@pytest.mark.parametrize(("rate", "seconds"), [(0.0, "2"), (1.0, "2"), (0.01, "60"), (100.0, "1")])
def test_a_full_queue_is_429_with_the_time_to_try_again(
    reader: InputReader, rate: float, seconds: str
) -> None:
    app = Application(reader, max_waiting=4)
    app.rows_per_second = rate

    async def ask(client: Client) -> Any:
        first = asyncio.ensure_future(client.post("/v1/score", json={"prompt": "a", "responses": ["b"] * 3}))
        await app.until_waiting(3)
        refused = await client.post("/v1/score", json=[ONE, ONE])
        fits = asyncio.ensure_future(client.post("/v1/score", json=ONE))
        await app.until_waiting(4)
        for row in app.waiting.take(1000, seconds=0):
            row.job.set_scores(row.place, (0.5,))
        return refused, await first, await fits

    refused, first, fits = app.run(ask)
    assert answer_of(refused) == (429, "too many responses are waiting")
    assert refused.headers["retry-after"] == seconds
    assert first.json() == {"scores": [0.5] * 3}
    assert fits.json() == {"score": 0.5}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/score", {"prompt": "a", "responses": ["b"] * 5}),
        (
            "/v1/score",
            [ONE, {"prompt": "a", "chosen": "b", "rejected": "c"}, {"prompt": "a", "responses": []}] * 2,
        ),
        ("/get_reward", {"query": ["a"] * 5}),
        ("/classify", {"text": ["a"] * 5}),
        ("/pooling", {"input": [[1, 2]] * 5}),
        ("/v1/embeddings", {"input": ["a"] * 5}),
    ],
)
def test_a_request_that_never_fits_the_queue_is_refused_before_it_is_read(
    reader: InputReader, path: str, body: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("conversation", "rendered", "ids"):
        monkeypatch.delattr(InputReader, name)
    app = Application(reader, max_waiting=4)
    number = 6 if isinstance(body, list) else 5
    line = f"{number} responses in one request are more than --max-waiting 4"

    async def ask(client: Client) -> Any:
        return await client.post(path, json=body)

    assert answer_of(app.run(ask)) == (413, line)


def test_an_engine_that_fails_is_500_for_all_and_then_503(reader: InputReader) -> None:
    app = Application(reader, max_waiting=4)

    async def ask(client: Client) -> Any:
        waits = asyncio.ensure_future(client.post("/get_reward", json={"query": ["a"]}))
        await app.until_waiting(1)
        app.waiting.close(RuntimeError("scoring failed: out of memory"))
        return await waits, await client.post("/v1/score", json=ONE)

    failed, refused = app.run(ask)
    assert answer_of(failed) == (500, "scoring failed: out of memory")
    assert answer_of(refused) == (503, "the server is stopping")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(24, "Too many open files"), "too many open files; raise the limit, as by ulimit -n 4096"),
        (UserError("no process could be started"), "no process could be started"),
    ],
)
def test_what_the_machine_lacks_is_500_in_one_line(
    reader: InputReader, error: Exception, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*given: Any) -> None:
        raise error

    monkeypatch.setattr(RecordTokenizer, "example", fails)
    app = Application(reader, max_waiting=4)

    async def ask(client: Client) -> Any:
        return await client.post("/v1/score", json=ONE)

    status, message = answer_of(app.run(ask))
    assert (status, message.startswith(line)) == (500, True)


def test_a_score_that_is_not_finite_is_500(reader: InputReader) -> None:
    app = Application(reader, max_waiting=4)

    async def ask(client: Client) -> Any:
        waits = asyncio.ensure_future(client.post("/v1/score", json=ONE))
        await app.until_waiting(1)
        (row,) = app.waiting.take(1000, seconds=0)
        row.job.set_scores(0, (float("nan"),))
        return await waits

    assert answer_of(app.run(ask)) == (500, "a score is not finite")


def test_a_request_that_takes_too_long_leaves_the_queue(reader: InputReader) -> None:
    app = Application(reader, max_waiting=4, timeout_seconds=0.2)

    async def ask(client: Client) -> Any:
        return await client.post("/v1/score", json=ONE)

    assert answer_of(app.run(ask)) == (504, "no answer within --timeout-seconds 0.2")
    assert app.waiting.num_rows == 0
    assert app.waiting.take(1000, seconds=0) == []


def test_health_says_when_the_server_ends(reader: InputReader) -> None:
    app = Application(reader, max_waiting=4)

    async def ask(client: Client) -> Any:
        found = [(await client.get("/health")).status_code]
        app.is_ready = False
        found += [
            (await client.get(path)).status_code for path in ("/health", "/health/ready", "/health/live")
        ]
        return found

    assert app.run(ask) == [200, 503, 503, 200]
