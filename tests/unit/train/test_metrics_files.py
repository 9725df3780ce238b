"""Rows of a run that goes on: kept as they were, or refused; never dropped without a word."""

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
