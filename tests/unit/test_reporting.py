"""metrics.jsonl over resumes."""

import json
from pathlib import Path

from modellink_rm.train.reporting import keep_rows


def test_rows_after_the_resumed_iteration_and_a_cut_off_row_go(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"iteration": iteration, "loss": 0.1}) for iteration in (1, 2, 3, 4)]
    path.write_text("\n".join(lines) + '\n{"iteration": 5, "lo')
    keep_rows(path, last_iteration=2)
    assert path.read_text() == "\n".join(lines[:2]) + "\n"


def test_no_file_is_no_error(tmp_path: Path) -> None:
    keep_rows(tmp_path / "metrics.jsonl", last_iteration=2)
    assert not (tmp_path / "metrics.jsonl").exists()
