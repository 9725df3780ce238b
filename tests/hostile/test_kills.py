"""Commands killed at any moment and run again: the output is that of a run that was not killed."""

import time
from pathlib import Path
from typing import Any

import pytest

from modellink_rm.dataset.manifest import manifest_path, mark_unfinished
from tests.hostile import writers
from tests.hostile.commands import GENERATE, TRIALS, WRITERS, Material, prepare, reference, run, start
from tests.hostile.kills import kill_trials, kills_at_each, torn
from tests.marks import full


@pytest.mark.parametrize(
    ("command", "num_kills"),
    [
        ("preprocess", 1),
        ("merge", 1),
        ("score", 1),
        full("preprocess", 50),
        full("merge", 50),
        full("train", 50),
        full("train in background", 50),
        full("train dpo", 50),
        full("train prm", 50),
        full("train adapters", 20),
        full("score", 50),
        full("score steps", 50),
        full("generate", 50),
    ],
)
@pytest.mark.timeout(3600)
def test_a_killed_command_that_runs_again_writes_what_one_that_was_not_does(
    command: str, num_kills: int, material: Material, tmp_path: Path
) -> None:
    counts = kill_trials(material, command, num_kills=num_kills, seed=1, directory=tmp_path)
    assert counts.offences == []
    assert counts.killed >= num_kills


@pytest.mark.parametrize(
    ("command", "num_kills"), [("filter", 1), *(full(command, 50) for command in WRITERS)]
)
@pytest.mark.timeout(3600)
def test_a_killed_command_that_writes_one_file_leaves_it_whole_or_away(
    command: str, num_kills: int, material: Material, tmp_path: Path
) -> None:
    num_met, found = writers.kill_trials(material, command, num_kills=num_kills, seed=1, directory=tmp_path)
    assert found == []
    assert num_met == num_kills


@pytest.mark.parametrize(
    ("command", "step"), [full("train dpo", 7), full("train prm", 13), full("train adapters", 13)]
)
@pytest.mark.timeout(3600)
def test_a_command_killed_at_each_thing_that_it_does_to_the_disk_goes_on(
    command: str, step: int, material: Material, tmp_path: Path
) -> None:
    num_kills, found = kills_at_each(material, command, first=1, step=step, directory=tmp_path)
    assert found == []
    assert num_kills > 10


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


def hold_the_writers() -> None:
    """Let no file of tensors become whole; for the command's own process."""
    from megatron.core.dist_checkpointing.strategies.filesystem_async import FileSystemWriterAsync

    def held(*arguments: Any, **settings: Any) -> None:
        Path("saving").touch()
        time.sleep(600)

    FileSystemWriterAsync.write_preloaded_data = staticmethod(held)


def test_nothing_outlives_a_training_that_is_killed_while_it_saves(
    material: Material, tmp_path: Path
) -> None:
    target = material.copy(tmp_path / "trial")
    running = start("train", TRIALS["train"], target, first=hold_the_writers)
    while not (target / "saving").exists():
        assert running.process.exitcode is None
        time.sleep(0.05)
    running.kill()
    assert running.outcome().code == -9
    assert running.survivors() == []


@pytest.mark.full
def test_no_export_outlives_a_generate_that_is_killed_while_it_exports(
    material: Material, tmp_path: Path
) -> None:
    prepare(material, "train dpo")
    target = material.copy(tmp_path / "trial")
    assert run("train dpo", f"{TRIALS['train dpo']} --train-iters 1", target).code == 0
    words = GENERATE.replace("--load model", "--load run --export-to exported --output answers.jsonl")
    running = start("generate", words, target)
    while not running.processes():
        assert running.process.exitcode is None
        time.sleep(0.05)
    running.kill()
    assert running.outcome().code == -9
    assert running.survivors() == []
    assert run("generate", words, target).code == 0


@pytest.mark.full
def test_transformers_does_not_outlive_an_export_that_is_killed_while_it_scores(
    material: Material, tmp_path: Path
) -> None:
    target = material.copy(tmp_path / "trial")
    running = start("export", "--load trained --output out", target)
    while not running.processes():
        assert running.process.exitcode is None
        time.sleep(0.05)
    running.kill()
    assert running.outcome().code == -9
    deadline = time.monotonic() + 60  # it imports transformers before it looks for who started it
    while running.processes() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert running.survivors() == []
