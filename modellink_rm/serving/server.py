"""The server: HTTP in a thread, the engine in the main one, and an orderly end."""

import asyncio
import logging
import resource
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn

from modellink_rm.base.errors import limit_message
from modellink_rm.base.log import info, warn_once
from modellink_rm.config.serve import ServeConfig
from modellink_rm.inference.scorer import Scorer
from modellink_rm.report.best import DIRECTORY_NAME as BEST_DIRECTORY
from modellink_rm.serving.address import begin_to_listen
from modellink_rm.serving.app import build_app
from modellink_rm.serving.engine import Engine, follow
from modellink_rm.serving.guard import Limits
from modellink_rm.serving.inputs import InputReader
from modellink_rm.serving.metrics import ServerMetrics
from modellink_rm.serving.service import ScoringService
from modellink_rm.serving.waiting import Waiting

_CONNECTIONS_BESIDE_THE_QUEUE = 1024
# For the rest of a body, and for clients to read the answers.
_SECONDS_BESIDE_THE_TIMEOUT = 10
_MOST_UNACCEPTED = 2048  # connections, as uvicorn's own backlog
_SECONDS_TO_END = 10.0
# Longer than clients keep a connection (aiohttp: 15): one that the server closed loses what is just sent.
_SECONDS_KEPT_ALIVE = 75


def serve(scorer: Scorer, config: ServeConfig, listener: socket.socket | None, token: str | None) -> None:
    """Answer requests until SIGTERM or Ctrl-C, then those that have been accepted; on every process.

    Args:
        listener: of the first process, which takes the requests; None elsewhere.
        token: that requests must bring; None for none.
    """
    if listener is None:
        with _signals_call(lambda: None):  # the first process says when the others end
            follow(scorer)
        return
    waiting = Waiting(config.max_waiting)
    metrics = ServerMetrics(lambda: waiting.num_rows)
    engine = Engine(scorer, waiting, metrics)
    reader = InputReader(scorer.inputs, num_ids=scorer.plan.model.shape.vocab_size)
    service = ScoringService(
        reader,
        waiting,
        metrics,
        rows_per_second=lambda: engine.rows_per_second,
        model_name=_model_name(Path(scorer.plan.options.scorer.load)),
        step_aggregate=scorer.plan.options.scorer.aggregate,
    )
    limits = Limits(
        token=token, max_body_bytes=config.max_body_bytes, timeout_seconds=float(config.timeout_seconds)
    )
    http = HttpThread(
        listener,
        num_requests=config.max_waiting + _CONNECTIONS_BESIDE_THE_QUEUE,
        seconds_to_answer=config.timeout_seconds + _SECONDS_BESIDE_THE_TIMEOUT,
    )
    app = build_app(service, metrics, limits, is_ready=lambda: not http.is_ending)
    with _signals_call(http.end):
        http.start(app, when_ended=engine.stop)
        host, port = listener.getsockname()[:2]
        info(f"serving {service.model_name} at http://{f'[{host}]' if ':' in host else host}:{port}")
        try:
            engine.run()
        finally:
            http.end()
            http.join()
            service.close()
    told = "every request that was accepted has been answered"
    if http.num_dropped:
        told = f"{http.num_dropped} connections were dropped whose clients did not read their answers"
    info(f"the server has ended; {told}")


def _model_name(load: Path) -> str:
    """The directory's name, with that of the run before a checkpoint's: two runs have a `best` each."""
    is_of_run = load.name == BEST_DIRECTORY or load.name.startswith("iter_")
    return "/".join(load.absolute().parts[-2:]) if is_of_run else load.absolute().name


class HttpThread:
    """uvicorn in a thread of its own.

    Args:
        num_requests: how many may be open at a time; more get 503.
        seconds_to_answer: once it ends, until connections are dropped whose answers are not sent or not read.

    Attributes:
        num_dropped: connections of these.
    """

    def __init__(self, listener: socket.socket, *, num_requests: int, seconds_to_answer: int) -> None:
        self._listener, self._num_requests = listener, num_requests
        self._seconds_to_answer = seconds_to_answer
        self._server: Any = None
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self.is_ending = False
        self.num_dropped = 0

    def start(self, app: Any, *, when_ended: Any) -> None:
        """Accept requests; from now on a client connects, and waits for the thread at most."""
        _allow_open_files()
        begin_to_listen(self._listener, most_waiting=_MOST_UNACCEPTED)
        # What is wrong with a request is the client's to know.
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
        settings = uvicorn.Config(
            app,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=_SECONDS_KEPT_ALIVE,
            limit_concurrency=self._num_requests,
            timeout_graceful_shutdown=self._seconds_to_answer,
        )
        self._server = uvicorn.Server(settings)
        self._server.should_exit = self.is_ending

        def run() -> None:
            try:
                asyncio.run(self._serve())
                self.num_dropped = len(self._server.server_state.connections)
            except BaseException as error:
                self._error = error
            finally:
                when_ended()

        self._thread = threading.Thread(target=run, name="http", daemon=True)
        self._thread.start()

    async def _serve(self) -> None:
        asyncio.get_running_loop().set_exception_handler(self._tell)
        await self._server.serve(sockets=[self._listener])

    def _tell(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Tell what the event loop cannot do, but not that it accepts nothing of a closed listener.

        It says so thousands of times where it was to try again, after a limit of open files.
        """
        if self._listener.fileno() >= 0 or not isinstance(context.get("exception"), ValueError):
            _tell_limits_once(loop, context)

    def end(self) -> None:
        """Accept no more requests; the thread ends when the accepted ones are answered."""
        self.is_ending = True
        if self._server is not None:
            self._server.should_exit = True

    def join(self) -> None:
        """Wait for the end.

        Raises:
            RuntimeError: it ended for another reason.
        """
        assert self._thread is not None
        self._thread.join(_SECONDS_TO_END)
        if self._error is not None:
            raise RuntimeError(f"the HTTP server failed: {self._error!r}")


def _tell_limits_once(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Tell what the event loop cannot do.

    Where connections need more files than there may be, it says so, with a traceback, thousands of times a
    second.
    """
    error = context.get("exception")
    message = limit_message(error) if isinstance(error, OSError) else None
    if message is None:
        loop.default_exception_handler(context)
    else:
        warn_once(f"{message}; some clients wait until others leave")


@contextmanager
def _signals_call(call: Any) -> Iterator[None]:
    """Within the block SIGTERM and Ctrl-C call that function."""
    before = {number: signal.signal(number, lambda *_: call()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _allow_open_files() -> None:
    """Raise the soft limit of open files to the hard one: every connection is one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
