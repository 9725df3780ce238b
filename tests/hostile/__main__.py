"""python -m tests.hostile --minutes N --seed S: trials at random, until the time is over.

Each prints what is wrong, with its seed; at the end the trials of each kind are counted.
"""

import argparse
import collections
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.hostile import full_disk, kills, races, random_runs
from tests.hostile.commands import TRIALS, Material, write_material

Trial = Callable[[Material, random.Random, Path], list[str]]


def _kill(material: Material, generator: random.Random, directory: Path) -> list[str]:
    command = generator.choice(list(TRIALS))
    seed = generator.randrange(2**32)
    counts = kills.kill_trials(material, command, num_kills=1, seed=seed, directory=directory)
    return [f"{command}: {told}" for told in counts.offences]


def _race(material: Material, generator: random.Random, directory: Path) -> list[str]:
    command = generator.choice(list(TRIALS))
    return races.race(material, command, seed=generator.randrange(2**32), directory=directory)


def _full_disk(material: Material, generator: random.Random, directory: Path) -> list[str]:
    command = generator.choice(list(TRIALS))
    return full_disk.offences(material, command, generator.randint(1, 60), directory)[0]


KINDS: dict[str, Trial] = {
    "killed": _kill,
    "raced": _race,
    "full disk": _full_disk,
    "random records": random_runs.random_records_trial,
    "damaged file": random_runs.damage_trial,
}


def trials(
    material: Material, directory: Path, *, seed: int, seconds: float
) -> tuple[collections.Counter[str], list[str]]:
    """Trials of each kind, and everything that was wrong with any."""
    counts: collections.Counter[str] = collections.Counter()
    found: list[str] = []
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        number = counts.total()
        generator = random.Random(f"{seed} {number}")
        kind = generator.choices(list(KINDS), weights=(1, 1, 1, 6, 3))[0]
        told = KINDS[kind](material, generator, directory)
        counts[kind] += 1
        for one in told:
            found.append(f"seed {seed}, trial {number}, {kind}: {one}")
            print(found[-1], flush=True)
    return counts, found


def main() -> int:
    """1 where anything was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", allow_abbrev=False)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hostile-") as name:
        directory = Path(name)
        material = write_material(directory / "material")
        counts, found = trials(material, directory / "trials", seed=flags.seed, seconds=60 * flags.minutes)
    print(f"{counts.total()} trials ({dict(counts)}), {len(found)} offences")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
