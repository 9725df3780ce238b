"""Older checkpoints are removed, never one that is needed or read."""

import fcntl
import os
from pathlib import Path

import pytest

from modellink_rm.checkpoint.files import FILES_NAME
from modellink_rm.checkpoint.layout import LATEST_NAME
from modellink_rm.checkpoint.prune import Retention, in_use, prune, remove_unfinished


def write_checkpoints(root: Path, *iterations: int) -> Path:
    for iteration in iterations:
        directory = root / f"iter_{iteration:07d}"
        (directory / "tokenizer").mkdir(parents=True)
        for name in (FILES_NAME, "run.json", "tokenizer/tokenizer.model"):
            (directory / name).write_text("x")
    return root


def left(root: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("iter_")) for path in root.iterdir())


@pytest.mark.parametrize(
    ("keep_last", "interval", "kept", "expected"),
    [
        (None, None, (), [0, 10, 20, 30, 40, 50, 60]),
        (1, None, (), [0, 50, 60]),
        (2, None, (), [0, 40, 50, 60]),
        (9, None, (), [0, 10, 20, 30, 40, 50, 60]),
        (None, 20, (), [0, 20, 40, 50, 60]),
        (2, 30, (), [0, 30, 40, 50, 60]),
        (1, None, (10, 30), [0, 10, 30, 50, 60]),
    ],
)
def test_what_is_left_beside_the_newest_the_best_and_what_lies_beyond(
    keep_last: int | None, interval: int | None, kept: tuple[int, ...], expected: list[int], tmp_path: Path
) -> None:
    root = write_checkpoints(tmp_path, 0, 10, 20, 30, 40, 50, 60)  # taken back to 50
    removed = prune(root, 50, Retention(keep_last=keep_last, interval=interval), kept)
    assert left(root) == expected
    gone = {0, 10, 20, 30, 40, 50, 60} - set(expected)
    assert removed == [root / f"iter_{iteration:07d}" for iteration in sorted(gone)]


def test_a_checkpoint_that_is_read_is_removed_after_a_later_save(tmp_path: Path) -> None:
    root = write_checkpoints(tmp_path, 1, 2, 3)
    with in_use(root / "iter_0000001"), in_use(root / "iter_0000001"):
        # What a reader does with the file besides does not let go of it.
        (root / "iter_0000001" / FILES_NAME).read_bytes()
        assert prune(root, 3, Retention(keep_last=1)) == [root / "iter_0000002"]
        assert left(root) == [1, 3]
    assert prune(root, 3, Retention(keep_last=1)) == [root / "iter_0000001"]
    assert left(root) == [3]


def test_a_file_system_without_locks_is_read_and_pruned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, kind: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    root = write_checkpoints(tmp_path, 1, 2)
    with in_use(root / "iter_0000002"):
        assert prune(root, 2, Retention(keep_last=1)) == [root / "iter_0000001"]


def test_a_removal_that_is_interrupted_leaves_nothing_of_a_checkpoints_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_checkpoints(tmp_path, 1, 2)

    def killed(path: Path, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            prune(root, 2, Retention(keep_last=1))
    assert sorted(os.listdir(root)) == ["iter_0000001.tmp", "iter_0000002"]
    remove_unfinished(root)
    assert left(root) == [2]


def test_a_checkpoint_whose_replacement_was_interrupted_has_its_name_again(tmp_path: Path) -> None:
    root = write_checkpoints(tmp_path, 1, 2, 3)
    for number in (2, 3):
        os.rename(root / f"iter_000000{number}", root / f"iter_000000{number}.old")
    write_checkpoints(root, 2)
    remove_unfinished(root)
    assert left(root) == [1, 2, 3]
    assert (root / "iter_0000003" / "run.json").read_text() == "x"


def test_what_cannot_be_removed_is_told_and_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_checkpoints(tmp_path, 1, 2)
    told: list[str] = []
    monkeypatch.setattr("modellink_rm.checkpoint.prune.warn_once", told.append)

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "replace", refuse)
    assert prune(root, 2, Retention(keep_last=1)) == []
    assert told == [f"{root}/iter_0000001 could not be removed: Permission denied"]


def test_what_a_killed_run_was_writing_beside_its_checkpoints_is_removed(tmp_path: Path) -> None:
    """A kill while the newest checkpoint's name is replaced left the older file under a temporary name."""
    left = [tmp_path / f".{name}.24734.47.old.tmp" for name in (LATEST_NAME, "best.json", "about.json")]
    other = tmp_path / ".rows.jsonl.24735.0.tmp"  # of another command
    for path in (*left, other):
        path.touch()
    remove_unfinished(tmp_path)
    assert list(tmp_path.iterdir()) == [other]
