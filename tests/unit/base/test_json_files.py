"""JSON files of other tools, as they may be."""

from pathlib import Path

import pytest

from modellink_rm.base.errors import UserError
from modellink_rm.base.json_files import read_json_object


def test_an_object_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"name": "\u00e9"}', encoding="utf-8")
    assert read_json_object(tmp_path / "a.json") == {"name": "\u00e9"}


def test_a_file_that_is_no_json_is_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(UserError, match=r"a\.json is not valid JSON: Expecting property name"):
        read_json_object(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", r"is broken \(.+\); ask again$"),
        (b"\xff\xfe{", r"is broken \(.+\); ask again$"),
        (b"[" * 100_000, r"is broken \(.+\); ask again$"),
        (b"[]", "must hold a list of names, got list$"),
        (b"3", "must hold a list of names, got int$"),
    ],
    ids=["cut", "encoding", "deep", "list", "number"],
)
def test_another_content_is_refused_in_one_line(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"a.json {message}") as refused:
        read_json_object(path, expected="a list of names", damaged="is broken ({error}); ask again")
    assert "\n" not in str(refused.value)
