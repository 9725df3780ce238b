"""Commands that write one file or directory, killed at any moment and run again, and two of them at once."""

import random
import signal
import time
from pathlib import Path

from modellink_rm.checkpoint.layout import checkpoint_directories, read_checkpoint_info
from tests.hostile.commands import WRITERS, Material, Outcome, copy_for_writer, remains, run, start

# `.metadata` holds a random name, and files.json the checksum of it.
_MADE_UP_ANEW = (".metadata", "files.json")


def reference(material: Material, command: str, directory: Path) -> tuple[dict[str, bytes], float]:
    """What a command of WRITERS writes when nothing goes wrong, and the seconds that it takes."""
    target = copy_for_writer(material, directory / "reference")
    started = time.monotonic()
    outcome = run(command, WRITERS[command][0], target)
    assert outcome.code == 0, outcome.stderr
    return _written(command, target), time.monotonic() - started


def kill_trials(
    material: Material, command: str, *, num_kills: int, seed: int, directory: Path
) -> tuple[int, list[str]]:
    """Kill a command of WRITERS until `num_kills` kills met it; run it again after each, and compare.

    Returns:
        how many kills met it, and what should not have been.
    """
    generator = random.Random(f"{seed} {command}")
    words, _ = WRITERS[command]
    expected, seconds = reference(material, command, directory)
    num_met = 0
    offences: list[str] = []
    while num_met < num_kills:
        target = copy_for_writer(material, directory / "trial")
        delay = generator.uniform(0, 1.1) * seconds
        running = start(command, words, target)
        running.process.join(delay)
        running.kill()
        is_met = running.outcome().code == -signal.SIGKILL
        num_met += is_met
        told = [f"still running: {name}" for name in running.survivors()]
        found = _written(command, target)
        if found not in ({}, expected):
            told.append("what stands under its name is not whole")
        told += _wrong(command, target, expected, [run(command, words, target)], is_whole=bool(found))
        offences += [f"{command}, a kill at {delay:.3f} s: {one}" for one in told]
    return num_met, offences


def races(material: Material, command: str, *, times: int, directory: Path) -> list[str]:
    """What is wrong after two equal runs of a command of WRITERS, the second a moment after the first."""
    words, _ = WRITERS[command]
    expected, seconds = reference(material, command, directory)
    offences: list[str] = []
    for seed in range(times):
        target = copy_for_writer(material, directory / "trial")
        delay = random.Random(f"{seed} {command}").uniform(0, 0.7) * seconds
        first = start(command, words, target)
        time.sleep(delay)
        second = start(command, words, target)
        told = _wrong(command, target, expected, [first.outcome(), second.outcome()], is_whole=False)
        offences += [f"{command}, the second {delay:.3f} s after the first: {one}" for one in told]
    return offences


def _wrong(
    command: str, target: Path, expected: dict[str, bytes], outcomes: list[Outcome], *, is_whole: bool
) -> list[str]:
    """What is wrong when all runs have ended.

    Args:
        is_whole: the output was there before; where it is a directory, a run may refuse to write into it.
    """
    told = [
        f"exit code {outcome.code}: {outcome.stderr[-1500:]}"
        for outcome in outcomes
        if outcome.code != 0 and not outcome.is_one_line()
    ]
    if not is_whole and all(outcome.code != 0 for outcome in outcomes):
        told.append(f"none ended well: {[outcome.errors for outcome in outcomes]}")
    found = _written(command, target)
    different = [name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)]
    told += [f"differs from what a run alone writes: {sorted(different)}"] if different else []
    left = [name for name in remains(target) if not name.startswith("shards_")]
    if is_whole:  # a run that refuses to write deletes nothing, and an empty lock holds nobody up
        left = [name for name in left if not name.endswith(".lock")]
    return told + ([f"left behind: {left}"] if left else [])


def _written(command: str, directory: Path) -> dict[str, bytes]:
    """The files of the command's output, without what the engine makes up anew for each checkpoint.

    Raises:
        UserError: a checkpoint is not whole.
    """
    output = directory / WRITERS[command][1]
    if output.is_dir():
        for checkpoint in checkpoint_directories(output):
            read_checkpoint_info(checkpoint)
    paths = [output] if output.is_file() else output.rglob("*")
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in paths
        if path.is_file() and path.name not in _MADE_UP_ANEW and not _is_temporary(path)
    }


def _is_temporary(path: Path) -> bool:
    return any(name.endswith((".tmp", ".lock")) for name in path.parts)
