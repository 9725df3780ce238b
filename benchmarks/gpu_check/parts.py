"""A part of the check: a process of its own with a time limit, which leaves a result or a reason."""

import contextlib
import dataclasses
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
_LINES_OF_A_FAILURE = 30


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all parts are given.

    Attributes:
        device: "cuda", or "cpu" to try the parts themselves.
        is_tiny: sizes of a second, which measure nothing.
        work: directory for models, data and checkpoints.
        reference: directory of make_models.py, for the comparison with TRL; None to leave it out.
        data: directory of dpo_en_demo.json, likewise.
        peers: directory of the other trainers' environments, likewise.
    """

    device: str
    is_tiny: bool
    work: Path
    reference: Path | None = None
    data: Path | None = None
    peers: Path | None = None

    def to_json(self) -> str:
        """As `from_json` reads it."""
        return json.dumps(dataclasses.asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> "Setting":
        """The setting that `to_json` wrote."""
        values = json.loads(text)
        for name in ("work", "reference", "data", "peers"):
            values[name] = values[name] and Path(values[name])
        return cls(**values)


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a part found.

    Attributes:
        summary: for the table.
        rows: the figures.
    """

    passed: bool
    summary: str
    rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of the check.

    Attributes:
        name: of its function, which takes a `Setting` and returns a `Result`.
        module: of this package, that holds the function; imported in the part's own process.
        seconds: after which it is ended.
    """

    name: str
    module: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a part ended.

    Attributes:
        status: "passed", "failed", or "skipped" where something that it needs was not given.
        log: the end of what a failed one printed.
    """

    name: str
    status: str
    seconds: float
    summary: str
    rows: list[dict[str, Any]]
    log: str = ""


class SkippedError(Exception):
    """A part cannot run because something was not given; the message says what."""


def run_part(part: Part, setting: Setting) -> Outcome:
    """Run a part in a process of its own, and end it with all its children at its time limit."""
    output = setting.work / f"{part.name}.json"
    output.unlink(missing_ok=True)
    command = [
        sys.executable,
        "-m",
        "benchmarks.gpu_check",
        "--part",
        part.name,
        "--setting",
        setting.to_json(),
    ]
    started = time.monotonic()
    with (setting.work / f"{part.name}.log").open("w+") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
        try:
            process.wait(timeout=part.seconds)
            reason = f"exit code {process.returncode}"
        except subprocess.TimeoutExpired:
            reason = f"not done within {part.seconds:.0f} s"
        finally:
            _end_session(process)
        log.seek(0)
        said = log.read().splitlines()
    seconds = time.monotonic() - started
    end = "\n".join(said[-_LINES_OF_A_FAILURE:])
    if not output.exists():
        last = next((line for line in reversed(said) if line.strip()), "")
        summary = f"{reason}: {last}" if last else reason
        return Outcome(name=part.name, status="failed", seconds=seconds, summary=summary, rows=[], log=end)
    found = json.loads(output.read_text())
    log_of_failure = end if found["status"] == "failed" else ""
    return Outcome(name=part.name, seconds=seconds, log=log_of_failure, **found)


def run_here(part: Part, setting: Setting) -> None:
    """Run a part in this process, and write its result where `run_part` reads it."""
    try:
        run = getattr(importlib.import_module(f"benchmarks.gpu_check.{part.module}"), part.name)
        result: Result = run(setting)
        status, summary, rows = "passed" if result.passed else "failed", result.summary, result.rows
    except SkippedError as reason:
        status, summary, rows = "skipped", str(reason), []
    found = {"status": status, "summary": summary, "rows": rows}
    (setting.work / f"{part.name}.json").write_text(json.dumps(found))


def _end_session(process: "subprocess.Popen[bytes]") -> None:
    """End a process and those that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
