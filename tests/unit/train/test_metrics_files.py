"""Rows of a run that goes on: kept as they were, or refused; never dropped without a word."""

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from modellink_rm.base.errors import UserError
from modellink_rm.train.metrics_files import RowsFile, check_rows, rows_until

ROWS = [f'{{"iteration": {number}, "loss": 0.5}}\n' for number in range(1, 5)]


def written(directory: Path, *lines: str) -> Path:
    path = directory / "metrics.jsonl"
    path.write_text("".join(lines), encoding="latin-1")
    return path


@pytest.mark.parametrize(
    "line", ['{"iteration" 2}\n', "\xff\n", "[2]\n", '{"iteration": "2"}\n', "{}\n", "\n"]
)
def test_a_damaged_row_is_refused_by_its_place(line: str, tmp_path: Path) -> None:
    path = written(tmp_path, ROWS[0], line, *ROWS[2:])
    whole = path.read_bytes()
    with pytest.raises(UserError, match=r"metrics\.jsonl:2 is no row of a run: the file is damaged"):
        check_rows(tmp_path)
    with pytest.raises(UserError, match=r"metrics\.jsonl:2"):
        RowsFile(path, resumed_iteration=3)
    assert path.read_bytes() == whole


def test_a_row_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    path = written(tmp_path, *ROWS, '{"iteration": 5, "lo')
    check_rows(tmp_path)
    assert rows_until(path, 9) == ROWS
    path.write_bytes(path.read_bytes() + bytes(500))  # the file system lost power
    assert rows_until(path, 2) == ROWS[:2]


def test_a_run_that_begins_anew_does_not_read_older_rows(tmp_path: Path) -> None:
    path = written(tmp_path, "\xff\n")
    RowsFile(path, resumed_iteration=0)
    assert path.read_bytes() == b""


@contextmanager
def files_of_at_most(num_bytes: int) -> Iterator[None]:
    """What exceeds it is cut off, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_of_rows_that_belong_together_a_full_disk_leaves_none(tmp_path: Path) -> None:
    """A part would pass for the scores after training, which a run that goes on does not write again."""
    path = written(tmp_path, *ROWS)
    file = RowsFile(path, resumed_iteration=4)
    more = [{"iteration": 9, "row": number} for number in range(40)]
    with files_of_at_most(500), pytest.raises(OSError, match="File too large"):
        file.add_together(more)
    assert rows_until(path, 9) == ROWS
    assert [one.name for one in tmp_path.iterdir()] == [path.name]
    file.add_together(more)
    assert list(map(json.loads, rows_until(path, 9)[4:])) == more


def test_rows_are_never_written_to_a_file_that_was_moved_away(tmp_path: Path) -> None:
    save = tmp_path / "run"
    save.mkdir()
    file = RowsFile(save / "metrics.jsonl", resumed_iteration=0)
    file.add({"iteration": 1})
    (save / "metrics.jsonl").rename(tmp_path / "moved.jsonl")
    file.add({"iteration": 2})
    assert (save / "metrics.jsonl").read_text() == '{"iteration": 2}\n'
    save.rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError):
        file.add({"iteration": 3})
