"""Random records, flags and damage: exit code 0, 1 or one line, and no data set that lies."""

import random
from pathlib import Path

import pytest

from tests.hostile.__main__ import trials
from tests.hostile.commands import Material
from tests.hostile.random_runs import damage_trial, random_records_trial


def test_random_records_make_a_data_set_or_one_line(material: Material, tmp_path: Path) -> None:
    for seed in range(3):
        assert random_records_trial(material, random.Random(seed), tmp_path) == []


def test_a_damaged_file_is_one_line_or_harmless(material: Material, tmp_path: Path) -> None:
    for seed in range(2):
        assert damage_trial(material, random.Random(seed), tmp_path) == []


@pytest.mark.full
@pytest.mark.timeout(600)
def test_two_minutes_of_everything(material: Material, tmp_path: Path) -> None:
    counts, found = trials(material, tmp_path, seed=7, seconds=120)
    assert found == []
    assert counts.total() > 0
