"""Two runs at once on one output: one of them writes it whole, the other is told or comes after it."""

from pathlib import Path

import pytest

from tests.hostile import writers
from tests.hostile.commands import WRITERS, Material
from tests.hostile.races import race, race_for_a_column
from tests.marks import full


@pytest.mark.parametrize(
    ("command", "times"),
    [
        ("preprocess", 2),
        full("score", 1),
        full("preprocess", 20),
        full("merge", 20),
        full("train", 20),
        full("score", 20),
        full("train dpo", 10),
        full("generate", 20),
    ],
)
@pytest.mark.timeout(1800)
def test_of_two_runs_at_once_one_writes_the_whole_output(
    command: str, times: int, material: Material, tmp_path: Path
) -> None:
    found = [told for seed in range(times) for told in race(material, command, seed=seed, directory=tmp_path)]
    assert found == []


@pytest.mark.parametrize("command", [full(command) for command in WRITERS])
@pytest.mark.timeout(1800)
def test_of_two_runs_at_once_one_writes_the_whole_file(
    command: str, material: Material, tmp_path: Path
) -> None:
    assert writers.races(material, command, times=20, directory=tmp_path) == []


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_two_runs_at_once_share_the_column_of_a_reference(material: Material, tmp_path: Path) -> None:
    found = [
        told for seed in range(20) for told in race_for_a_column(material, seed=seed, directory=tmp_path)
    ]
    assert found == []
