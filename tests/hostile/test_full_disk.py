"""A disk that fills at any moment: one line, nothing half-written, and what was there before still whole."""

from pathlib import Path

import pytest

from tests.hostile import writers
from tests.hostile.commands import WRITERS, Material
from tests.hostile.full_disk import offences, writer_offences
from tests.marks import full


@pytest.mark.parametrize(
    ("command", "first", "step"),
    [
        ("preprocess", 3, 11),
        ("merge", 5, 11),
        ("score", 2, 9),
        full("train", 30, 500),
        full("preprocess", 1, 1),
        full("merge", 1, 1),
        full("score", 1, 1),
        full("train", 1, 7),
        full("train dpo", 1, 20),
        full("train prm", 1, 20),
        full("train adapters", 1, 20),
        full("generate", 1, 1),
        full("train in background", 1, 30),
    ],
)
@pytest.mark.timeout(3600)
def test_a_disk_that_fills_is_one_line_and_the_older_output_stays(
    command: str, first: int, step: int, material: Material, tmp_path: Path
) -> None:
    """From the first thing that needs room to the command's end, every `step`-th."""
    found: list[str] = []
    num_met, was_met = 0, True
    while was_met:
        told, was_met = offences(material, command, first + step * num_met, tmp_path)
        found += told
        num_met += was_met
    assert found == []
    assert num_met > 0


@pytest.mark.parametrize("command", [name if name == "filter" else full(name) for name in WRITERS])
@pytest.mark.timeout(3600)
def test_a_disk_that_fills_changes_no_file_of_a_command_that_writes_one(
    command: str, material: Material, tmp_path: Path
) -> None:
    assert writers.reference(material, command, tmp_path)[0]  # it ends well where there is room
    found: list[str] = []
    num_met, was_met = 0, True
    while was_met:
        told, was_met = writer_offences(material, command, 1 + 3 * num_met, tmp_path)
        found += told
        num_met += was_met
    assert found == []
    assert num_met > 0
