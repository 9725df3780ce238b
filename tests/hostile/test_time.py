"""A process that is stopped for a while, a clock that jumps, files from the future: nothing changes."""

import os
import random
import time
from pathlib import Path

import pytest

from tests.hostile.commands import ROWS, TRIALS, Material, reference, run, start, written
from tests.marks import full

_YEAR = 365 * 86400


def jump() -> None:
    """Let this process's clock be another one each time it is read, by up to nine years."""
    generator, now, now_ns = random.Random(1), time.time, time.time_ns

    def jumped() -> int:
        return generator.choice((-1, 1)) * generator.choice((0, 5, 3600, _YEAR, 9 * _YEAR))

    vars(time).update(time=lambda: now() + jumped(), time_ns=lambda: now_ns() + 10**9 * jumped())


def give_other_times(directory: Path, generator: random.Random) -> None:
    """Let every file be years old, or of the years to come."""
    for path in directory.rglob("*"):
        if path.is_file():
            moment = time.time() + generator.uniform(-9, 9) * _YEAR
            os.utime(path, (moment, moment))


@pytest.mark.parametrize("command", [full("preprocess"), full("score"), full("train dpo")])
@pytest.mark.timeout(600)
def test_a_clock_that_jumps_changes_nothing_even_of_a_run_that_is_killed(
    command: str, material: Material, tmp_path: Path
) -> None:
    expected = reference(material, command)
    generator = random.Random(command)
    for is_killed in (False, True, True):
        target = material.copy(tmp_path / "trial", links=False)
        # Who changes weights changes their time: scores do not go on with those.
        give_other_times(target, generator)
        running = start(command, TRIALS[command], target, first=jump)
        if is_killed:
            running.process.join(generator.uniform(0.2, 0.9) * material.seconds[command])
            running.kill()
        outcome = running.outcome()
        if is_killed:
            give_other_times(target / "run", generator)
            words = TRIALS[command] + (" --resume" if command in ("preprocess", *ROWS) else "")
            outcome = run(command, words, target, first=jump)
        assert outcome.code == 0, outcome.stderr
        assert written(command, target) == expected


@pytest.mark.full
@pytest.mark.timeout(600)
def test_a_rank_that_is_stopped_for_a_while_changes_nothing(material: Material, tmp_path: Path) -> None:
    expected = reference(material, "train adapters")
    for number in range(2):
        target = material.copy(tmp_path / "trial")
        running = start("train adapters", TRIALS["train adapters"], target)
        while not (target / "run" / "metrics.jsonl").exists():
            assert running.process.exitcode is None
            time.sleep(0.05)
        stopped = sorted(running.processes(), key=lambda one: one.pid)[number]
        stopped.suspend()
        time.sleep(10)
        stopped.resume()
        outcome = running.outcome()
        assert outcome.code == 0, outcome.stderr
        assert written("train adapters", target) == expected
