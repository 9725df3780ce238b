"""Commands killed at any moment and run again: the output is that of a run that was not killed."""

from pathlib import Path

import pytest

from tests.hostile.commands import Material
from tests.hostile.kills import kill_trials
from tests.marks import full


@pytest.mark.parametrize(
    ("command", "num_kills"),
    [
        ("preprocess", 3),
        ("merge", 3),
        ("train", 1),
        ("score", 2),
        full("preprocess", 50),
        full("merge", 50),
        full("train", 50),
        full("score", 50),
    ],
)
@pytest.mark.timeout(3600)
def test_a_killed_command_that_runs_again_writes_what_one_that_was_not_does(
    command: str, num_kills: int, material: Material, tmp_path: Path
) -> None:
    counts = kill_trials(material, command, num_kills=num_kills, seed=1, directory=tmp_path)
    assert counts.offences == []
    assert counts.killed >= num_kills
