"""Outputs that vanish, are moved away or become a file while a command is at it: one line, never success."""

import functools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.hostile.commands import TRIALS, Material, reference, run, written
from tests.marks import full


def remove(save: Path) -> None:
    shutil.rmtree(save)


def move(save: Path) -> None:
    save.rename(save.with_name("elsewhere"))


def replace_by_a_file(save: Path) -> None:
    move(save)
    save.write_text("a file")


def replace_by_another_run(save: Path) -> None:
    move(save)
    shutil.copytree(save.with_name("elsewhere"), save)


def befall(save: Path, what: Callable[[Path], None], step: int) -> None:
    """Let it happen to --save before the `step`-th step; for the command's own process."""
    from modellink_rm.train import trainer
    from modellink_rm.train.step import train_step

    steps = iter(range(1, 100))

    def step_after(*arguments: Any, **settings: Any) -> Any:
        if next(steps) == step:
            what(save)
        return train_step(*arguments, **settings)

    vars(trainer)["train_step"] = step_after


@pytest.mark.parametrize(
    "what", [full(remove), full(move), full(replace_by_a_file), full(replace_by_another_run)]
)
def test_a_run_whose_directory_is_taken_away_ends_in_one_line_at_its_next_step(
    what: Callable[[Path], None], material: Material, tmp_path: Path
) -> None:
    """It made the directory anew, and the rows of its metrics went with the old one."""
    expected = reference(material, "train")
    target = material.copy(tmp_path / "trial")
    save = target / "run"
    outcome = run("train", TRIALS["train"], target, first=functools.partial(befall, save, what, 4))
    assert outcome.is_one_line(), outcome.stderr
    assert "--save run, or .lock in it, was moved, removed or replaced" in outcome.errors[0]
    elsewhere = save.with_name("elsewhere")
    if elsewhere.exists():
        if save.is_file():
            save.unlink()
        shutil.rmtree(save, ignore_errors=True)
        elsewhere.rename(save)
        assert (save / "latest_checkpointed_iteration.txt").read_text() == "3\n"
    assert run("train", TRIALS["train"], target).code == 0
    assert written("train", target) == expected
