"""Rendering of chat templates in a process of its own, for programs with several threads.

The limits of `render_limits` are those of a process: a signal interrupts only its main thread, and a limit of
memory holds for all threads. Beside other threads, as in a server, another process is therefore limited.
"""

import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

from modellink_rm.base.errors import UserError
from modellink_rm.base.launcher import module_as_child
from modellink_rm.templates.render_limits import RenderingTooLongError, rendering_limits

_SECONDS_TO_START = 120.0
# The other process measures its processor time itself; this is for one that can no longer do so.
_SECONDS_OF_WAITING = 60.0
_READ_BYTES = 1 << 16


class RenderingError(ValueError):
    """The template failed, as the message says."""


def render(values: Mapping[str, Any], chat_template: str) -> str:
    """The text of a chat template, as transformers' `apply_chat_template` renders it.

    Args:
        values: the template's variables.
    """
    from transformers.utils.chat_template_utils import _compile_jinja_template  # transformers 5.23

    text: str = _compile_jinja_template(chat_template).render(**values)
    return text


class RenderProcess:
    """A process that renders one text after the other; starts at the first, anew if it hung."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0  # the process that started it: forked children have none of their own yet

    def render(self, values: Mapping[str, Any], chat_template: str, *, seconds: float) -> str:
        """As the function `render`, within `seconds` of processor time; `values` as JSON has them.

        Raises:
            RenderingTooLongError: it took longer.
            MemoryError: it needed too much memory.
            RenderingError: the template failed.
            UserError: no process could be started.
        """
        request = {"values": values, "chat_template": chat_template, "seconds": seconds}
        with self._lock:
            try:
                answer = self._answer(request)
            except (EOFError, BrokenPipeError):  # killed, which need not be this text's fault
                try:
                    answer = self._answer(request)
                except (EOFError, BrokenPipeError):  # by the system
                    raise MemoryError from None
        if "text" in answer:
            return str(answer["text"])
        kinds = {"time": RenderingTooLongError, "memory": MemoryError}
        raise kinds.get(answer["kind"], RenderingError)(answer["message"])

    def _answer(self, request: Mapping[str, Any]) -> dict[str, str]:
        """What the process answers.

        Raises:
            EOFError: it has ended.
            BrokenPipeError: likewise.
            RenderingTooLongError: it took longer than it may.
        """
        process = self._running()
        try:
            assert process.stdin is not None
            process.stdin.write(json.dumps(request, default=str).encode() + b"\n")
            process.stdin.flush()
            answer: dict[str, str] = json.loads(_line_of(process, request["seconds"] + _SECONDS_OF_WAITING))
        except BaseException:
            self._end()
            raise
        return answer

    def _running(self) -> "subprocess.Popen[bytes]":
        if self._process is None or self._owner != os.getpid():
            words, environment = module_as_child(__name__)
            self._process = subprocess.Popen(
                words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
            )
            self._owner = os.getpid()
            try:
                _line_of(self._process, _SECONDS_TO_START)
            except (EOFError, RenderingTooLongError):
                self._end()
                raise UserError("the process that renders chat templates could not be started") from None
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()


def _line_of(process: "subprocess.Popen[bytes]", seconds: float) -> bytes:
    """The next line that a process writes.

    Raises:
        EOFError: it has ended.
        RenderingTooLongError: there was none in time.
    """
    assert process.stdout is not None
    descriptor, deadline, parts = process.stdout.fileno(), time.monotonic() + seconds, [b""]
    ready = select.poll()  # select takes no descriptor above 1023, as a server with many clients has
    ready.register(descriptor, select.POLLIN)
    while not parts[-1].endswith(b"\n"):
        if not ready.poll(1000 * max(0.0, deadline - time.monotonic())):
            raise RenderingTooLongError
        parts.append(os.read(descriptor, _READ_BYTES))
        if not parts[-1]:
            raise EOFError
    return b"".join(parts)


def _answer(request: Mapping[str, Any]) -> dict[str, str]:
    """What this process answers: a text, or a kind of failure with its message."""
    try:
        with rendering_limits(request["seconds"]):
            return {"text": render(request["values"], request["chat_template"])}
    except RenderingTooLongError:
        return {"kind": "time", "message": ""}
    except MemoryError:
        return {"kind": "memory", "message": ""}
    except Exception as error:  # whatever a foreign program raises
        return {"kind": "error", "message": str(error) or type(error).__name__}


def _serve() -> None:
    """Answer requests until the process that started this one has ended."""
    from transformers.utils.chat_template_utils import _compile_jinja_template

    _compile_jinja_template("")  # what it imports takes none of a request's time
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print is no answer
    answers.write(b"ready\n")
    for line in requests:
        answers.write(json.dumps(_answer(json.loads(line))).encode() + b"\n")


if __name__ == "__main__":
    _serve()
