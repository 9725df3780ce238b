"""The thread that takes requests, and what the server calls what it serves."""

import asyncio
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from modellink_rm.serving.server import HttpThread, _model_name, _tell_limits_once


async def app(scope: Any, receive: Any, send: Any) -> None:
    """204 for everything."""
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def test_a_server_takes_connections_once_it_says_that_it_serves() -> None:
    """Its line is printed after `start`: who waits for the line asks at once."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    http, ended = HttpThread(listener, num_requests=4, seconds_to_answer=60), threading.Event()
    http.start(app, when_ended=ended.set)
    with socket.create_connection(listener.getsockname(), timeout=10) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 204")
    http.end()
    http.join()
    assert ended.is_set()


def test_connections_beyond_the_limit_of_open_files_are_one_line(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr("modellink_rm.base.log.logger.warning", lambda form, text: told.append(text))
    loop = asyncio.new_event_loop()
    for _ in range(3):
        _tell_limits_once(loop, {"message": "accept", "exception": OSError(24, "Too many open files")})
    _tell_limits_once(loop, {"message": "of another kind", "exception": OSError(5, "Input/output error")})
    loop.close()
    assert [text.partition(";")[0] for text in told] == ["too many open files"]
    assert [one.message for one in caplog.records] == ["of another kind"]


def test_a_server_that_ends_at_the_limit_of_open_files_tells_of_no_closed_listener(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(socket.socket):
        num_accepted = 0

        def accept(self) -> tuple[socket.socket, Any]:
            if self.num_accepted:
                raise OSError(24, "Too many open files")
            self.num_accepted += 1
            return super().accept()

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        asked.set()
        await asyncio.sleep(0.3)  # in which asyncio tries to accept again
        await app(scope, receive, send)

    monkeypatch.setattr("asyncio.constants.ACCEPT_RETRY_DELAY", 0.1)
    listener, asked = Full(), threading.Event()
    listener.bind(("127.0.0.1", 0))
    http, ended = HttpThread(listener, num_requests=4, seconds_to_answer=5), threading.Event()
    http.start(answer, when_ended=ended.set)
    with socket.create_connection(listener.getsockname(), timeout=10) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert asked.wait(5)
        with socket.create_connection(listener.getsockname(), timeout=10):
            http.end()
            assert ended.wait(5)
            http.join()
    assert [one.message for one in caplog.records if one.name == "asyncio"] == []


def test_a_client_that_does_not_read_its_answer_keeps_no_server_from_ending() -> None:
    async def long_answer(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(64):  # more than the sockets of both sides hold
            await send({"type": "http.response.body", "body": bytes(1 << 20), "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    http, ended = HttpThread(listener, num_requests=4, seconds_to_answer=1), threading.Event()
    http.start(long_answer, when_ended=ended.set)
    with socket.create_connection(listener.getsockname(), timeout=10) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(12) == b"HTTP/1.1 200"
        http.end()
        assert ended.wait(5)
        http.join()
        assert http.num_dropped == 1


@pytest.mark.parametrize(
    ("load", "name"),
    [
        ("checkpoints/llama2", "llama2"),
        ("checkpoints/llama2/", "llama2"),
        ("checkpoints/llama2/best", "llama2/best"),
        ("checkpoints/llama2/iter_0000060", "llama2/iter_0000060"),
    ],
)
def test_a_checkpoint_is_called_by_its_run_too(load: str, name: str) -> None:
    assert _model_name(Path(load)) == name
