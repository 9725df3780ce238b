"""What stands before the routes: tokens, limits, time, and clients that leave."""

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from modellink_rm.serving import guard as guard_module
from modellink_rm.serving.guard import Guard, Limits
from modellink_rm.serving.metrics import ServerMetrics


class Application:
    """Answers 200 with the length of the body after some seconds; knows how often it was ended before."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.num_ended = 0
        self.num_answered = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        assert not message["more_body"]
        try:
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            self.num_ended += 1
            raise
        self.num_answered += 1
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": str(len(message["body"])).encode()})


class Exchange:
    """One request through a guard, and what came back."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.body = b""

    async def run(
        self,
        parts: Sequence[bytes] = (b"x",),
        *,
        path: str = "/v1/score",
        headers: Sequence[tuple[bytes, bytes]] = (),
        never_ends: bool = False,
        leaves: bool = False,
    ) -> "Exchange":
        messages = [
            {"type": "http.request", "body": part, "more_body": never_ends or index + 1 < len(parts)}
            for index, part in enumerate(parts)
        ]
        if leaves:
            messages.append({"type": "http.disconnect"})

        async def receive() -> Any:
            if messages:
                return messages.pop(0)
            return await asyncio.Event().wait()

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                self.status, self.headers = message["status"], dict(message["headers"])
            else:
                self.body += message["body"]

        scope = {"type": "http", "path": path, "headers": list(headers)}
        await asyncio.wait_for(self._guard(scope, receive, send), 30)
        return self

    @property
    def message(self) -> str:
        return str(json.loads(self.body)["error"]["message"])


def guarded(
    app: Application, *, is_ready: Callable[[], bool] = lambda: True, **limits: Any
) -> tuple[Guard, ServerMetrics]:
    metrics = ServerMetrics(lambda: 0)
    values: dict[str, Any] = {"token": None, "max_body_bytes": 100, "timeout_seconds": 30.0, **limits}
    routes = frozenset(("/v1/score",))
    return Guard(app, Limits(**values), metrics, routes=routes, is_ready=is_ready), metrics


def asked(guard: Guard, *arguments: Any, **options: Any) -> Exchange:
    return asyncio.run(Exchange(guard).run(*arguments, **options))


def test_a_body_in_parts_reaches_the_application_whole() -> None:
    found = asked(guarded(Application())[0], [b"abc", b"", b"de"])
    assert (found.status, found.body) == (200, b"5")


@pytest.mark.parametrize(
    ("given", "status"), [(None, 401), (b"Bearer wrong", 401), (b"secret", 401), (b"Bearer secret", 200)]
)
def test_a_request_needs_the_token(given: bytes | None, status: int) -> None:
    app = Application()
    guard, _ = guarded(app, token="secret")
    found = asked(guard, headers=[(b"authorization", given)] if given is not None else [])
    assert found.status == status
    assert app.num_answered == (status == 200)
    assert status == 200 or found.headers[b"www-authenticate"] == b"Bearer"


def test_health_needs_no_token() -> None:
    guard, _ = guarded(Application(), token="secret")
    assert [asked(guard, path=path).status for path in ("/health", "/health/live", "/metrics")] == [
        200,
        200,
        401,
    ]


@pytest.mark.parametrize(
    ("parts", "headers"),
    [([b"x" * 101], [(b"content-length", b"101")]), ([b"x" * 60, b"x" * 60], []), ([b"x" * 99] * 50, [])],
    ids=["announced", "in parts", "without an end in sight"],
)
def test_a_body_that_is_too_large_gets_413(parts: list[bytes], headers: list[tuple[bytes, bytes]]) -> None:
    app = Application()
    found = asked(guarded(app)[0], parts, headers=headers)
    assert (found.status, app.num_answered) == (413, 0)
    assert found.message == "the body is larger than --max-body-bytes 100"
    assert found.headers[b"connection"] == b"close"


def test_a_body_that_does_not_come_gets_408(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard_module, "_SECONDS_FOR_A_BODY", 0.05)
    assert asked(guarded(Application())[0], [b"x"], never_ends=True).status == 408


def test_a_body_that_does_not_come_is_given_up_when_the_server_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before what told it to end kills it, with what others wait for."""
    monkeypatch.setattr(guard_module, "_SECONDS_WHILE_ENDING", 0.05)
    monkeypatch.setattr(guard_module, "_SECONDS_BETWEEN_LOOKS", 0.02)
    begin = time.monotonic()
    guard, _ = guarded(Application(), is_ready=lambda: time.monotonic() < begin + 0.05)
    found = asked(guard, [b"x"], never_ends=True)
    assert (found.status, found.message) == (503, "the server is stopping")
    assert asked(guard, [b"x"]).status == 503


def test_a_client_that_leaves_within_its_body_is_counted() -> None:
    guard, metrics = guarded(Application())
    assert asked(guard, [b"x"], never_ends=True, leaves=True).status == 0
    assert "modellink_rm_clients_left_total 1.0" in metrics.text().decode()


def test_an_answer_that_takes_too_long_gets_504_and_is_given_up() -> None:
    app = Application(seconds=60)
    found = asked(guarded(app, timeout_seconds=0.05)[0])
    assert (found.status, app.num_ended, app.num_answered) == (504, 1, 0)


def test_what_a_client_asked_is_given_up_when_it_leaves() -> None:
    app = Application(seconds=60)
    guard, metrics = guarded(app)
    found = asked(guard, leaves=True)
    assert (found.status, app.num_ended, app.num_answered) == (0, 1, 0)
    text = metrics.text().decode()
    assert "modellink_rm_clients_left_total 1.0" in text
    assert 'requests_total{route="/v1/score",status="499"} 1.0' in text


def test_a_request_whose_answer_fails_is_counted() -> None:
    async def failing(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 500, "headers": []})
        raise ValueError("of a library")

    guard, metrics = guarded(failing)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="of a library"):
        asked(guard)
    assert 'requests_total{route="/v1/score",status="500"} 1.0' in metrics.text().decode()


def test_bodies_held_at_a_time_are_bounded() -> None:
    """17 clients, each with a whole body, while no answer is given."""

    async def run() -> list[int]:
        guard, _ = guarded(Application(seconds=0.2))
        exchanges = [Exchange(guard).run([b"x" * 100]) for _ in range(17)]
        return sorted(one.status for one in await asyncio.gather(*exchanges))

    assert asyncio.run(run()) == [200] * 16 + [503]


def test_room_for_bodies_is_given_back() -> None:
    guard, _ = guarded(Application())
    assert {asked(guard, [b"x" * 100]).status for _ in range(40)} == {200}


def test_paths_that_are_no_routes_are_counted_as_one() -> None:
    guard, metrics = guarded(Application())
    for path in ("/a", "/b", "/v1/score"):
        asked(guard, path=path)
    text = metrics.text().decode()
    assert 'requests_total{route="other",status="200"} 2.0' in text
    assert 'requests_total{route="/v1/score",status="200"} 1.0' in text
