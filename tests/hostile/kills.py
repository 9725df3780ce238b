"""Commands that are killed at any moment, run again, and compared with one that was not."""

import collections
import contextlib
import functools
import json
import random
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from modellink_rm.base.errors import UserError
from modellink_rm.dataset.dataset import open_dataset
from modellink_rm.dataset.manifest import manifest_path
from tests.hostile import full_disk
from tests.hostile.commands import OUTPUTS, ROWS, TRIALS, Material, reference, remains, run, start, written


@dataclass(frozen=True)
class Counts:
    """What became of the trials of a command.

    Attributes:
        killed: kills that met the command before its end.
        finished: that came after its end.
        offences: what should not have been, by trial.
    """

    killed: int
    finished: int
    offences: list[str]


def kill_trials(
    material: Material, command: str, *, num_kills: int, seed: int, directory: Path, seconds: float = 3600
) -> Counts:
    """Kill a command until `num_kills` kills met it; run it again after each, and compare.

    Args:
        directory: for the trials, removed and made again for each.
        seconds: no trial begins later than that.
    """
    generator = random.Random(f"{seed} {command}")
    expected = reference(material, command)
    counts: collections.Counter[bool] = collections.Counter()
    offences: list[str] = []
    deadline = time.monotonic() + seconds
    while counts[True] < num_kills and time.monotonic() < deadline:
        target = material.copy(directory / "trial")
        delays = [
            generator.uniform(0, 1.1) * material.seconds[command] for _ in range(generator.choice((1, 1, 2)))
        ]
        for delay in delays:
            words = TRIALS[command]
            if command == "preprocess":
                words += generator.choice(("", " --resume")) + f" --workers {generator.randint(1, 3)}"
            killed, told = _killed_after(delay, command, words, target, generator)
            counts[killed] += 1
            told += torn(command, target, expected)
            offences += [f"after a kill at {delay:.3f} s: {one}" for one in told]
        offences += [f"kills at {delays}: {told}" for told in _after_another_run(command, target, expected)]
    return Counts(counts[True], counts[False], offences)


def kills_at_each(
    material: Material, command: str, *, first: int, step: int, directory: Path
) -> tuple[int, list[str]]:
    """Kill a command at every `step`-th thing that it does to the disk; run it again, and compare.

    Returns:
        how many kills met it, and what should not have been.
    """
    expected = reference(material, command)
    offences: list[str] = []
    num_kills = 0
    while True:
        target = material.copy(directory / "trial")
        number = first + step * num_kills
        hook = functools.partial(full_disk.kill_at, number, target)
        running = start(command, TRIALS[command], target, first=hook)
        if running.outcome().code == 0:
            return num_kills, offences
        num_kills += 1
        told = [f"still running: {name}" for name in running.survivors()]
        told += torn(command, target, expected) + _after_another_run(command, target, expected)
        offences += [f"{command}, killed at its {number}th: {one}" for one in told]


def _killed_after(
    delay: float, command: str, words: str, target: Path, generator: random.Random
) -> tuple[bool, list[str]]:
    """Whether the kill met the command before its end, and what of it did not end with it.

    Of a command of several processes the first one is killed, which torchrun is of several ranks, or all, or
    another one.
    """
    running = start(command, words, target)
    running.process.join(delay)
    others = running.processes()
    which = generator.choice(("first", "all", "other")) if others else "first"
    with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):  # it has just ended
        if which == "first":
            running.kill()
        elif which == "all":
            running.kill_all()
        else:
            generator.choice(others).kill()
    outcome = running.outcome()
    told = [f"still running: {name}" for name in running.survivors()]
    if which != "other":
        return outcome.code == -signal.SIGKILL, told
    if outcome.code == -signal.SIGKILL:
        told.append("it waits for a process that was killed")
    if "Traceback" in outcome.stderr:
        told.append(f"a traceback for a process that was killed: {outcome.stderr[-1500:]}")
    return outcome.code != 0, told


def torn(command: str, target: Path, expected: dict[str, bytes]) -> list[str]:
    """What under its final name is neither whole nor refused by its readers."""
    if command.startswith("train"):  # its rows and checkpoints come one by one
        return []
    found = written(command, target)
    if command in OUTPUTS:
        prefix = target / OUTPUTS[command]
        if not manifest_path(prefix).exists():
            return []
        if is_marked_unfinished(prefix):
            return _openable(prefix)
    return [f"{name} is not what was to be written" for name in found if found[name] != expected.get(name)]


def is_marked_unfinished(prefix: Path) -> bool:
    """Whether a run was stopped while it gave the files of the data set their names."""
    return bool(json.loads(manifest_path(prefix).read_bytes()).get("unfinished"))


def _openable(prefix: Path) -> list[str]:
    """What is wrong with a data set that is marked as unfinished: that it can be opened."""
    try:
        open_dataset(prefix)
    except UserError:
        return []
    return [f"{prefix.name} is marked as unfinished, and can be opened"]


def _after_another_run(command: str, target: Path, expected: dict[str, bytes]) -> list[str]:
    """What is wrong after the command ran again, to its end."""
    is_whole = command == "merge" and written(command, target) == expected
    words = TRIALS[command] + (" --resume" if command in ("preprocess", *ROWS) else "")
    outcome = run(command, words, target)
    if outcome.code != 0 and not (is_whole and outcome.is_one_line()):  # the shards may be gone already
        return [f"exit code {outcome.code}: {outcome.stderr[-2000:]}"]
    found = written(command, target)
    different = [name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)]
    told = [f"differs from a run that was not killed: {sorted(different)}"] if different else []
    left = [name for name in remains(target) if not name.startswith("shards_")]
    return told + ([f"left behind: {left}"] if left else [])
