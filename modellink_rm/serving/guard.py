"""What stands before every route: the token, limits of size and of time, clients that leave."""

import asyncio
import contextlib
import hmac
import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from modellink_rm.records.duplicate_keys import key_twice
from modellink_rm.records.record import shortened
from modellink_rm.serving.metrics import ServerMetrics

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_SECONDS_FOR_A_BODY = 30.0
# ... of which so many once the server ends: what stops it kills it after 30, as torchrun and Kubernetes do.
_SECONDS_WHILE_ENDING = 5.0
_SECONDS_BETWEEN_LOOKS = 1.0
# Of a body that is too large, so much is read and forgotten before it is refused: a client that is still
# sending does not read the answer.
_BODIES_DISCARDED = 4
# Bodies that are held at a time, in --max-body-bytes.
_BODIES_HELD = 16
_CLIENT_LEFT = 499  # as nginx logs it


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits on requests.

    Attributes:
        token: what requests must bring, except for /health; None for nothing.
        max_body_bytes: of a request.
        timeout_seconds: from the end of a body to the end of its answer.
    """

    token: str | None
    max_body_bytes: int
    timeout_seconds: float


class _RefusedError(Exception):
    """A request is answered by the guard itself."""

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.headers = status, headers or {}


class Guard:
    """An ASGI application around another one.

    Args:
        routes: the paths that metrics name; all others are one.
        is_ready: False while the server ends.
    """

    def __init__(
        self,
        app: App,
        limits: Limits,
        metrics: ServerMetrics,
        *,
        routes: frozenset[str],
        is_ready: Callable[[], bool],
    ) -> None:
        self._app, self._limits, self._metrics, self._routes = app, limits, metrics, routes
        self._is_ready = is_ready
        self._ending_since: float | None = None
        self._num_held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        answer = _Answer(send)
        start = time.perf_counter()
        held = bytearray()
        try:
            self._check_token(scope)
            await self._read_body(scope, receive, held)
            body = bytes(held)
            _check_keys(body)
            start = time.perf_counter()
            await self._answered(scope, _replay(body), receive, answer)
        except _RefusedError as refusal:
            await answer.refuse(refusal)
        finally:
            self._num_held -= len(held)
            route = scope["path"] if scope["path"] in self._routes else "other"
            self._metrics.count_request(route, answer.status, time.perf_counter() - start)

    def _check_token(self, scope: Scope) -> None:
        expected = self._limits.token
        if expected is None or scope["path"].startswith("/health"):
            return
        given = _header(scope, b"authorization")
        if not hmac.compare_digest(given, b"Bearer " + expected.encode()):
            raise _RefusedError(401, "a bearer token is needed", {"WWW-Authenticate": "Bearer"})

    async def _read_body(self, scope: Scope, receive: Receive, held: bytearray) -> None:
        """Read the whole body into `held`."""
        most = self._limits.max_body_bytes
        announced = _header(scope, b"content-length")
        discards = announced.isdigit() and int(announced) > most
        num_discarded = 0
        start = time.monotonic()
        while True:
            message = await self._next_message(receive, start)
            if message["type"] == "http.disconnect":
                self._metrics.count_client_left()
                raise _RefusedError(_CLIENT_LEFT, "the client left")
            part = message.get("body", b"")
            discards = discards or len(held) + len(part) > most
            if discards:
                num_discarded += len(part)
            elif part:
                self._hold(part, held)
            if not message.get("more_body", False) or num_discarded > _BODIES_DISCARDED * most:
                break
        if discards:
            raise _RefusedError(413, f"the body is larger than --max-body-bytes {most}")

    async def _next_message(self, receive: Receive, start: float) -> Message:
        """What comes next of a body whose reading began at `start`, if it comes in time."""
        while True:
            now = time.monotonic()
            left = start + _SECONDS_FOR_A_BODY - now
            if left <= 0:
                raise _RefusedError(408, f"the body took more than {_SECONDS_FOR_A_BODY:g} s")
            if not self._is_ready():
                self._ending_since = self._ending_since or now
                if now - self._ending_since > _SECONDS_WHILE_ENDING:
                    raise _RefusedError(503, "the server is stopping", {"Retry-After": "1"})
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left, _SECONDS_BETWEEN_LOOKS)):
                    return await receive()

    def _hold(self, part: bytes, held: bytearray) -> None:
        if self._num_held + len(part) > _BODIES_HELD * self._limits.max_body_bytes:
            raise _RefusedError(503, "too many large bodies at a time", {"Retry-After": "1"})
        self._num_held += len(part)
        held += part

    async def _answered(self, scope: Scope, replay: Receive, receive: Receive, answer: "_Answer") -> None:
        """Let the application answer, as long as somebody waits for it and there is time."""
        app = asyncio.ensure_future(self._app(scope, replay, answer))
        left = asyncio.ensure_future(_until_left(receive))
        try:
            done, _ = await asyncio.wait(
                {app, left}, timeout=self._limits.timeout_seconds, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            left.cancel()
            if not app.done():
                app.cancel()
        if app in done:
            await app
            return
        with contextlib.suppress(asyncio.CancelledError):
            await app
        if left in done:
            self._metrics.count_client_left()
            raise _RefusedError(_CLIENT_LEFT, "the client left")
        raise _RefusedError(504, f"no answer within --timeout-seconds {self._limits.timeout_seconds:g}")


class _Answer:
    """Sends an answer, and remembers its status."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await self._send(message)

    async def refuse(self, refusal: _RefusedError) -> None:
        """Answer with an error, where nothing has been answered yet."""
        if self.status:
            return
        if refusal.status == _CLIENT_LEFT:
            self.status = _CLIENT_LEFT
            return
        body = json.dumps(error_body(refusal.status, str(refusal))).encode()
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), **refusal.headers}
        headers["Connection"] = "close"
        encoded = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await self({"type": "http.response.start", "status": refusal.status, "headers": encoded})
        await self({"type": "http.response.body", "body": body})


def error_body(status: int, message: str) -> dict[str, Any]:
    """The JSON of an error, in the form of OpenAI's servers."""
    kind = "invalid_request_error" if 400 <= status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "code": status}}


def _check_keys(body: bytes) -> None:
    """No object of the body has a key twice, of which the application would silently take one value."""
    try:
        key = key_twice(body) if body else None
    except (ValueError, RecursionError):
        return  # the application says what is wrong with it
    if key is not None:
        raise _RefusedError(400, shortened(f"an object of the body has the key {key!r} twice"))


def _header(scope: Scope, name: bytes) -> bytes:
    return next((value for key, value in scope["headers"] if key == name), b"")


def _replay(body: bytes) -> Receive:
    """A `receive` that gives the body, and then nothing until the request is over."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        if messages:
            return messages.pop()
        await asyncio.Event().wait()
        raise AssertionError("nobody sets this event")

    return replayed


async def _until_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
