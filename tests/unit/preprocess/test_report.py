"""What preprocessing says about its progress."""

from pathlib import Path

import pytest

from modellink_rm.preprocess import report
from modellink_rm.preprocess.report import progress_over


@pytest.mark.parametrize(("name", "share"), [("a.jsonl", ", 50% of the input"), ("a.jsonl.zst", "")])
def test_a_share_of_the_input_is_told_only_where_it_is_known(
    name: str, share: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(report, "info", told.append)
    monkeypatch.setattr(report, "_SECONDS_BETWEEN_LINES", 0.0)
    (tmp_path / name).write_bytes(b"x" * 10)
    with progress_over([tmp_path / name], name="held-out") as took:
        took(3, 5)
    assert told[0].startswith(f"held-out: 3 records{share}, ")
