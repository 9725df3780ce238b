"""The thread that takes requests, and what the server calls what it serves."""

import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from modellink_rm.serving.server import HttpThread, _model_name


async def app(scope: Any, receive: Any, send: Any) -> None:
    """204 for everything."""
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def test_a_server_takes_connections_once_it_says_that_it_serves() -> None:
    """Its line is printed after `start`: who waits for the line asks at once."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    http, ended = HttpThread(listener, num_requests=4), threading.Event()
    http.start(app, when_ended=ended.set)
    with socket.create_connection(listener.getsockname(), timeout=10) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 204")
    http.end()
    http.join()
    assert ended.is_set()


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
