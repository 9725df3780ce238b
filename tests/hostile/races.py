"""Two runs of a command at once, on one output."""

import random
import time
from pathlib import Path

from tests.hostile.commands import TRAIN_DPO, TRIALS, Material, reference, remains, run, start, written


def race(material: Material, command: str, *, seed: int, directory: Path) -> list[str]:
    """What is wrong after two equal runs of a command, the second a moment after the first.

    One of them at least ends well and its output is whole; the other ends well too, or in one line.
    """
    expected = reference(material, command)
    target = material.copy(directory / "trial")
    delay = random.Random(f"{seed} {command}").uniform(0, 0.7) * material.seconds[command]
    first = start(command, TRIALS[command], target)
    time.sleep(delay)
    second = start(command, TRIALS[command], target)
    outcomes = [first.outcome(), second.outcome()]
    told = [
        f"exit code {outcome.code}: {outcome.stderr[-1500:]}"
        for outcome in outcomes
        if outcome.code != 0 and not outcome.is_one_line()
    ]
    if all(outcome.code != 0 for outcome in outcomes):
        told.append(f"neither ended well: {[outcome.errors for outcome in outcomes]}")
    if written(command, target) != expected:
        told.append("the output is not that of one run")
    left = [name for name in remains(target) if not name.startswith("shards_")]
    told += [f"left behind: {left}"] if left else []
    if command.startswith("train") and not told:
        again = run(command, TRIALS[command], target)
        told += [] if again.code == 0 else [f"the run cannot go on: {again.stderr[-1500:]}"]
    return [f"{command}, the second {delay:.3f} s after the first: {one}" for one in told]


def race_for_a_column(material: Material, *, seed: int, directory: Path) -> list[str]:
    """What is wrong after two runs of their own --save that need one column of a reference.

    Each ends well, perhaps with the column of the other; or is told in one line, and ends well afterwards.
    """
    command = "train dpo"
    expected = reference(material, command)
    target = material.copy(directory / "trial")
    delay = random.Random(f"{seed} column").uniform(0, 0.7) * material.seconds[command] * (seed % 3 > 0)
    words = {save: f"{TRAIN_DPO} --save {save} --auto-resume" for save in ("run", "other")}
    running = {}
    for save in words:
        running[save] = start(command, words[save], target)
        time.sleep(delay)
    told = []
    for save, one in running.items():
        outcome = one.outcome()
        if outcome.is_one_line():
            outcome = run(command, words[save], target)
        if outcome.code != 0:
            told.append(f"--save {save}: exit code {outcome.code}: {outcome.stderr[-1500:]}")
        elif written(command, target, save=save) != expected:
            told.append(f"--save {save}: the output is not that of a run alone")
    left = [name for name in remains(target) if not name.startswith("shards_")]
    told += [f"left behind: {left}"] if left else []
    return [f"the second {delay:.3f} s after the first: {one}" for one in told]
