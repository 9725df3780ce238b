"""Limits of rendering that Python itself cannot hold."""

import os
import resource
import signal
import subprocess
import sys
from contextlib import ExitStack
from subprocess import PIPE
from typing import Any

import pytest

from modellink_rm.templates.render_process import RenderProcess

HANGS = """
from modellink_rm.templates import render_limits
render_limits._SECONDS_OF_GRACE = 0.2
one, other = [], []
for _ in range(60):
    one, other = [one, one], [other, other]
with render_limits.rendering_limits(0.2):
    one == other
"""


def test_an_operation_that_cannot_be_interrupted_ends_with_its_process() -> None:
    done = subprocess.run([sys.executable, "-c", HANGS], capture_output=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGPROF


def test_nothing_is_left_of_the_limits() -> None:
    from modellink_rm.templates.render_limits import rendering_limits

    with rendering_limits(5.0):
        pass
    assert signal.getitimer(signal.ITIMER_PROF)[0] == signal.getitimer(signal.ITIMER_VIRTUAL)[0] == 0


def test_a_process_that_was_killed_is_not_the_texts_fault() -> None:
    process = RenderProcess()
    for name in ("cat", "dog"):
        assert process.render({"name": name}, "the {{ name }}", seconds=5.0) == f"the {name}"
        assert process._process is not None
        process._process.kill()
        process._process.wait()
    process._end()


def test_a_text_that_ends_each_process_needs_too_much_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    process, started = RenderProcess(), []

    def killed(self: RenderProcess) -> Any:
        started.append(subprocess.Popen([sys.executable, "-c", ""], stdin=PIPE, stdout=PIPE))
        return started[-1]

    monkeypatch.setattr(RenderProcess, "_running", killed)
    with pytest.raises(MemoryError):
        process.render({}, "x", seconds=5.0)
    for one in started:
        one.communicate()
    assert len(started) == 2


def test_a_text_is_rendered_beside_more_than_1024_open_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 1200:
        pytest.skip(f"this machine allows {hard} open files")
    process = RenderProcess()
    with ExitStack() as closing:
        closing.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        closing.callback(process._end)
        for _ in range(1100):
            closing.callback(os.close, os.open(os.devnull, os.O_RDONLY))
        assert process.render({"name": "cat"}, "the {{ name }}", seconds=5.0) == "the cat"
