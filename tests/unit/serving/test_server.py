"""The thread that takes requests."""

import socket
import threading
from typing import Any

from modellink_rm.serving.server import HttpThread


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
