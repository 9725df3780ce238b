"""Rows written as JSON lines and as tables."""

import json
from pathlib import Path
from typing import Any

import pytest

from modellink_rm.base.errors import UserError
from modellink_rm.base.files import exclusive
from modellink_rm.records import Record, read_records
from modellink_rm.records.row_output import row_output
from modellink_rm.records.tables import parquet_rows

ROWS: list[dict[str, Any]] = [
    {"id": 1, "prompt": "you", "score": 0.1 + 0.2, "scores": [1.0, 2.5]},
    {"prompt": "\u4f60\n", "chosen": {"role": "user", "n": 1}, "id": None},
    {"prompt": "x", "chosen": {"role": "user", "more": []}, "score": 3, "truncated": True},
]


def written(path: Path, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    with row_output(str(path)) as write:
        for row in rows:
            write(row)
    found = list(read_records(str(path)))
    assert all(isinstance(one, Record) for one in found)
    return [one.fields for one in found if isinstance(one, Record)]


def test_lines_hold_what_was_written(tmp_path: Path) -> None:
    assert written(tmp_path / "x.jsonl", ROWS) == ROWS
    assert "\u4f60\\n" in (tmp_path / "x.jsonl").read_text(encoding="utf-8")


def test_a_table_has_a_column_of_every_field_of_any_row(tmp_path: Path) -> None:
    found = written(tmp_path / "x.PARQUET", ROWS * 700)  # several blocks
    assert len(found) == 2100
    assert parquet_rows([tmp_path / "x.PARQUET"] * 2) == 4200
    assert parquet_rows([tmp_path / "x.PARQUET", tmp_path / "x.csv"]) == 0
    assert list(found[0]) == ["id", "prompt", "score", "scores", "chosen", "truncated"]
    empty = {"id": None, "score": None, "scores": None, "chosen": None, "truncated": None}
    assert found[0] == {**empty, **ROWS[0]}
    chosen = {"role": "user", "n": None, "more": []}
    assert found[2] == {**empty, "prompt": "x", "chosen": chosen, "score": 3.0, "truncated": True}


def test_a_column_of_several_kinds_holds_json(tmp_path: Path) -> None:
    rows = [{"a": 1, "b": {}, "c": "x"}, {"a": "1", "b": None, "c": "y"}]
    found = written(tmp_path / "x.parquet", rows)
    assert found == [{"a": "1", "b": "{}", "c": "x"}, {"a": '"1"', "b": None, "c": "y"}]
    later = [{"a": [1]}] * 1024 + [{"a": "text"}]
    assert [json.loads(row["a"]) for row in written(tmp_path / "y.parquet", later)] == [[1]] * 1024 + ["text"]


def test_a_column_with_an_integer_of_more_than_64_bits_holds_json(tmp_path: Path) -> None:
    found = written(tmp_path / "x.parquet", [{"id": 1}, {"id": 2**70}])
    assert [row["id"] for row in found] == ["1", str(2**70)]


@pytest.mark.parametrize("wrapped", [lambda one: one, lambda one: [one], lambda one: {"n": one}])
def test_integers_that_a_later_block_makes_floats_stay_what_they_are(tmp_path: Path, wrapped: Any) -> None:
    large = 2**53 + 1  # which a double rounds
    rows = [{"id": wrapped(large)}] * 1024 + [{"id": wrapped(0.5)}]
    found = [json.loads(row["id"]) for row in written(tmp_path / "x.parquet", rows)]
    assert (found[0], found[-1]) == (wrapped(large), wrapped(0.5))
    assert written(tmp_path / "y.parquet", [{"id": 1}] * 1024 + [{"id": 0.5}])[0] == {"id": 1.0}


@pytest.mark.parametrize("apart", [0, 1024])
@pytest.mark.parametrize("wrapped", [lambda one: one, lambda one: [one], lambda one: {"n": [one]}])
def test_truth_values_beside_floats_stay_what_they_are(tmp_path: Path, wrapped: Any, apart: int) -> None:
    values = [wrapped(0.5), *[wrapped(None)] * apart, wrapped(True)]
    for order in (values, values[::-1]):
        found = [row["x"] for row in written(tmp_path / "x.parquet", [{"x": one} for one in order])]
        ends = [json.loads(found[0]), json.loads(found[-1])]
        assert [str(one) for one in ends] == [str(order[0]), str(order[-1])]  # True == 1.0


@pytest.mark.parametrize("apart", [0, 1024])
def test_objects_of_different_keys_have_all_of_them_in_a_table_which_a_line_says(
    tmp_path: Path, apart: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    monkeypatch.setattr("modellink_rm.records.table_output.warn_once", lines.append)
    same = {"tools": [{"x": {"d": "a"}}], "p": {"k": [1]}}
    written(tmp_path / "x.parquet", [same] * 1025)
    assert lines == []
    found = written(tmp_path / "y.parquet", [*[same] * (1 + apart), {"tools": [{"y": 1}], "p": {"k": [0.5]}}])
    assert found[0]["tools"] == [{"x": {"d": "a"}, "y": None}]
    said = "field 'tools' has objects of different keys: in the table each has those of all, null where it"
    assert [line.startswith(said) for line in lines] == [True]


def test_a_file_appears_when_it_is_whole_and_has_one_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.jsonl"

    def failing() -> None:
        with row_output(str(path)) as write:
            write({"a": 1})
            raise RuntimeError

    with pytest.raises(RuntimeError):
        failing()
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr("modellink_rm.base.files.SECONDS_FOR_A_DYING_RUN", 0.1)
    refused = pytest.raises(UserError, match="another run is writing it")
    with exclusive(tmp_path / ".x.jsonl.lock", ""), refused:
        failing()
