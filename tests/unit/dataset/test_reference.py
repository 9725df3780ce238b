"""The column of a reference's log-probabilities: written whole, verified, continued after a kill."""

import json
from pathlib import Path

import numpy as np
import pytest

from modellink_rm.base.errors import UserError
from modellink_rm.dataset.indexed import bin_path
from modellink_rm.dataset.reference import ReferenceColumn, reference_parts

LENGTHS = np.array([2, 3, 2], np.int32)
VALUES = np.arange(7, dtype=np.float64) - 9.5


def column(directory: Path, model: str = "a") -> ReferenceColumn:
    return ReferenceColumn(prefix=directory / "pairs", identity={"model": model, "seq_length": 64})


def test_column_comes_back_row_by_row(tmp_path: Path) -> None:
    assert column(tmp_path).open() is None
    column(tmp_path).write(VALUES, LENGTHS)
    found = column(tmp_path).open()
    assert found is not None
    assert [found[row].tolist() for row in range(3)] == [
        VALUES[:2].tolist(),
        VALUES[2:5].tolist(),
        VALUES[5:].tolist(),
    ]


def test_columns_of_several_references_lie_beside_each_other(tmp_path: Path) -> None:
    column(tmp_path, "a").write(VALUES, LENGTHS)
    column(tmp_path, "b").write(VALUES + 1, LENGTHS)
    found = [column(tmp_path, name).open() for name in "ab"]
    assert [None if one is None else float(one[0][0]) for one in found] == [-9.5, -8.5]


def test_changed_values_are_not_taken(tmp_path: Path) -> None:
    column(tmp_path).write(VALUES, LENGTHS)
    data = bin_path(column(tmp_path).array)
    content = bytearray(data.read_bytes())
    content[5] ^= 1
    data.write_bytes(content)
    assert column(tmp_path).open() is None


def test_a_column_under_the_name_of_another_is_not_taken(tmp_path: Path) -> None:
    column(tmp_path, "a").write(VALUES, LENGTHS)
    other = column(tmp_path, "b").array.name
    for path in tmp_path.glob("*reference*"):
        path.rename(path.with_name(other + path.suffix))
    assert column(tmp_path, "b").description.is_file()
    assert column(tmp_path, "b").open() is None


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"identity": {}, "sha256": []}'])
def test_damaged_description_is_not_taken(content: bytes, tmp_path: Path) -> None:
    column(tmp_path).write(VALUES, LENGTHS)
    column(tmp_path).description.write_bytes(content)
    assert column(tmp_path).open() is None


def test_description_names_the_identity(tmp_path: Path) -> None:
    column(tmp_path).write(VALUES, LENGTHS)
    described = json.loads(column(tmp_path).description.read_bytes())
    assert described["identity"] == {"model": "a", "seq_length": 64}


def test_parts_continue_without_the_torn_one(tmp_path: Path) -> None:
    one = column(tmp_path)
    with reference_parts(one) as parts:
        assert parts.finished(one.identity_json) == []
        parts.add(VALUES[:2])
        parts.add(VALUES[2:5])
        path = parts.path
    path.write_bytes(path.read_bytes()[:-3])
    with reference_parts(one) as parts:
        assert [part.tolist() for part in parts.finished(one.identity_json)] == [VALUES[:2].tolist()]
        parts.add(VALUES[2:5])
        parts.add(VALUES[5:])
    with reference_parts(one) as parts:
        assert np.concatenate(parts.finished(one.identity_json)).tolist() == VALUES.tolist()
        parts.remove()
    assert list(tmp_path.iterdir()) == []


def test_directory_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> int:
        raise PermissionError(13, "Permission denied", "data/.pairs.parts")

    monkeypatch.setattr("modellink_rm.base.files.os.open", refuse)
    with (
        pytest.raises(UserError, match=r"cannot be written beside the data: data/\.pairs\.parts"),
        reference_parts(column(tmp_path)),
    ):
        raise AssertionError("it was opened")
