"""`serve` as people start it: what it refuses, and how it ends, alone and under torchrun."""

import asyncio
import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.load import ILL_BEHAVED, Question, run_load
from modellink_rm.base.errors import run_command
from modellink_rm.commands import serve
from tests.distributed import Workers

ROOT = Path(__file__).parents[2]
CHECKPOINT = ROOT / "tests" / "fixtures" / "checkpoint_v1" / "iter_0000002"
LAUNCHER = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m"]
SECONDS_TO_START = 120.0
SECONDS_TO_END = 60.0
RECORDS = [
    {"prompt": f"the cat {number % 7}", "response": "sings " * (number % 5 + 1)} for number in range(40)
]


def told(words: Sequence[str]) -> tuple[int, str]:
    """Exit code and message of the command."""
    with contextlib.redirect_stderr(io.StringIO()) as stderr:
        code = run_command(serve.main, words)
    return code, stderr.getvalue().strip()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            "--host 0.0.0.0",
            "--host 0.0.0.0 lets other machines ask: give --token-file FILE, or --without-token",
        ),
        ("--host 192.0.2.1 --without-token", "--host 192.0.2.1 --port 8000: Cannot assign requested address"),
        ("--port 70000", "--port must be at most 65535, got 70000"),
        ("--token-file a --without-token", "--token-file and --without-token contradict each other"),
        ("--token-file nowhere", "nowhere: No such file or directory"),
        (
            "--token-file /dev/null",
            "--token-file /dev/null: its first line must be a token of ASCII characters",
        ),
    ],
)
def test_what_cannot_be_served_is_one_line_before_a_model_is_loaded(flags: str, message: str) -> None:
    code, line = told(["--load", "nowhere", *flags.split()])
    assert code == 2
    assert line.startswith(f"error: {message}")
    assert "\n" not in line


def test_a_port_that_is_taken_is_told_before_a_model_is_loaded() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, line = told(["--load", "nowhere", "--port", str(port)])
    assert (code, line) == (
        2,
        f"error: --host 127.0.0.1 --port {port}: Address already in use; give others",
    )


def test_packages_that_are_missing_are_named_with_the_command_that_installs_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(serve, "find_spec", lambda name: None if name == "uvicorn" else object())
    assert told(["--load", "nowhere"]) == (2, "error: serve needs uvicorn: pip install 'modellink-rm[serve]'")


def test_a_server_of_normalized_scores_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = SimpleNamespace(normalization="mean 1, std 2")
    monkeypatch.setattr("modellink_rm.inference.plan.plan_scoring", lambda options: plan)
    monkeypatch.setattr("modellink_rm.inference.scorer.Scorer", contextlib.nullcontext)
    monkeypatch.setattr("modellink_rm.serving.server.serve", lambda *given: None)
    line = "scores are normalized: mean 1, std 2; --raw gives the model's own"
    assert told(["--load", "x", "--port", "0"]) == (0, line)


class Server:
    """The command as a process."""

    def __init__(self, words: Sequence[str], flags: str = "") -> None:
        self.process = subprocess.Popen(
            [*words, "modellink_rm", "serve", "--load", str(CHECKPOINT), "--port", "0", *flags.split()],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.lines: list[str] = []
        self.url = ""
        self._is_up = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()
        assert self._is_up.wait(SECONDS_TO_START), self.lines

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            if " at http://" in line:
                self.url = line.split(" at ")[1].strip()
                self._is_up.set()

    def ask(self, records: Any, path: str = "/v1/score") -> tuple[int, Any]:
        """Status and answer; 0 where there was none."""
        body = json.dumps(records).encode()
        request = urllib.request.Request(self.url + path, body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, error.read()
        except (urllib.error.URLError, ConnectionError) as error:
            return 0, str(error)


@pytest.fixture
def start() -> Iterator[Callable[..., Server]]:
    """Start a server; whatever it leaves is killed at the end."""
    started: list[Server] = []

    def started_one(words: Sequence[str], flags: str = "") -> Server:
        started.append(Server(words, flags))
        return started[-1]

    yield started_one
    for server in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.process.pid, signal.SIGKILL)
        server.process.wait()


def scores_of(records: list[dict[str, Any]]) -> list[Any]:
    from modellink_rm import Scorer

    with Scorer.open(CHECKPOINT) as scorer:
        return scorer.score(records)


@pytest.mark.full
def test_what_was_accepted_is_answered_after_sigterm(start: Callable[..., Server], workers: Workers) -> None:
    server = start([sys.executable, "-m"])
    (expected,) = workers.run(scores_of, 1, RECORDS)
    found: list[tuple[int, Any]] = []
    has_begun = threading.Event()

    def ask_often() -> None:
        while True:
            answer = server.ask(RECORDS)
            found.append(answer)
            has_begun.set()
            if answer[0] != 200:
                return

    with ThreadPoolExecutor(8) as clients:
        asking = [clients.submit(ask_often) for _ in range(8)]
        assert has_begun.wait(60)
        server.process.send_signal(signal.SIGTERM)
        for one in asking:
            one.result(timeout=60)
    assert server.process.wait(SECONDS_TO_END) == 0
    statuses = [status for status, _ in found]
    assert set(statuses) == {200, 0}  # answered, or not let in any more
    for status, answer in found:
        if status == 200:
            assert [one["score"] for one in answer] == pytest.approx(expected, abs=1e-6)
        else:
            assert "refused" in answer or "reset" in answer or "closed" in answer
    assert "every request that was accepted has been answered" in "".join(server.lines)


@pytest.mark.full
def test_clients_that_misbehave_cost_others_neither_a_score_nor_an_answer(
    start: Callable[..., Server], workers: Workers
) -> None:
    """Malformed, oversized and slow bodies, and clients that leave, beside 40 others, until SIGTERM."""
    server = start([sys.executable, "-m"])
    (expected,) = workers.run(scores_of, 1, RECORDS)
    questions = [Question(record, (score,)) for record, score in zip(RECORDS, expected, strict=True)]
    outcome = asyncio.run(
        run_load(
            server.url,
            "/v1/score",
            questions,
            lambda answer: [answer["score"]],
            num_clients=40,
            seconds=10,
            ill_behaved=ILL_BEHAVED,
            at_end=lambda: server.process.send_signal(signal.SIGTERM),
            tolerance=1e-6,
        )
    )
    assert server.process.wait(SECONDS_TO_END) == 0
    assert len(outcome.latencies) > 40
    assert outcome.wrong == 0
    kinds = {kind.split(": ")[0]: set() for kind in outcome.other}
    for kind in outcome.other:
        kinds[kind.split(": ")[0]].add(kind.split(": ")[-1])
    assert kinds.pop("malformed") <= {"400", "422"}
    assert kinds.pop("oversized") == {"413"}
    assert kinds.pop("slow") == {"200"}
    assert kinds.pop("vanishing") <= {"200", "left"}
    assert set(kinds) <= {"not let in any more", "no answer (ServerDisconnectedError)"}


@pytest.mark.full
@pytest.mark.parametrize("flag", ["--tensor-model-parallel-size 2", "--pipeline-model-parallel-size 2"])
def test_two_processes_behind_one_server_score_as_one_and_end_together(
    flag: str, start: Callable[..., Server], workers: Workers
) -> None:
    server = start(LAUNCHER, flag)
    (expected,) = workers.run(scores_of, 1, RECORDS)
    with ThreadPoolExecutor(4) as clients:
        for status, answer in clients.map(server.ask, [RECORDS] * 8):
            assert status == 200
            assert [one["score"] for one in answer] == pytest.approx(expected, abs=1e-5)
    time.sleep(6)  # an exchange without requests in between
    assert server.ask(RECORDS[:1])[0] == 200
    server.process.send_signal(signal.SIGTERM)
    server.process.wait(SECONDS_TO_END)
    assert "every request that was accepted has been answered" in "".join(server.lines)


@pytest.mark.full
def test_a_process_that_is_killed_ends_the_server(start: Callable[..., Server]) -> None:
    import psutil

    server = start(LAUNCHER, "--tensor-model-parallel-size 2")
    ranks = {one.environ()["RANK"]: one for one in psutil.Process(server.process.pid).children()}
    ranks["1"].kill()
    assert server.process.wait(SECONDS_TO_END) != 0
    assert server.ask(RECORDS[:1])[0] == 0
