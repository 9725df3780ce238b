"""Commands killed at any moment and run again: the output is that of a run that was not killed."""

from pathlib import Path

import pytest

from modellink_rm.dataset.manifest import manifest_path, mark_unfinished
from tests.hostile.commands import Material, reference
from tests.hostile.kills import kill_trials, torn
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


def test_a_kill_between_the_renames_is_a_refusal_and_another_file_is_not(
    material: Material, tmp_path: Path
) -> None:
    """What the trials hold for torn: not the mark of a data set being written, but anything else."""
    expected = reference(material, "preprocess")
    for name, content in expected.items():
        (tmp_path / name).write_bytes(content)
    assert torn("preprocess", tmp_path, expected) == []
    mark_unfinished(tmp_path / "out")
    assert torn("preprocess", tmp_path, expected) == []
    manifest_path(tmp_path / "out").write_text("{}")
    assert torn("preprocess", tmp_path, expected) == ["out_manifest.json is not what was to be written"]
