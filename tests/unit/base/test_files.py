import os
from pathlib import Path

import pytest

from modellink_rm.base.files import whole_file, whole_files


def test_a_file_has_its_name_only_when_whole(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with whole_file(path) as file:
        file.write(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["x"]


def test_an_exception_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"old")

    def write_and_fail() -> None:
        with whole_file(path) as file:
            file.write(b"new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_and_fail()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x"]


def test_files_appear_together_or_not_at_all(tmp_path: Path) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]
    with whole_files(paths) as (first, second):
        first.write(b"1")
        second.write(b"2")
        assert not any(path.exists() for path in paths)
    assert [path.read_bytes() for path in paths] == [b"1", b"2"]


def test_a_rename_that_fails_leaves_no_part_of_the_files(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()  # a file cannot take the name of a directory
    with pytest.raises(OSError, match="b"), whole_files([tmp_path / "a", tmp_path / "b"]):
        pass
    assert os.listdir(tmp_path) == ["b"]


def test_a_file_that_cannot_be_opened_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), whole_files([tmp_path / "a", tmp_path / "no" / "b"]):
        pass
    assert os.listdir(tmp_path) == []


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with whole_file(path):
        pass
    plain = tmp_path / "plain"
    plain.write_bytes(b"")
    assert path.stat().st_mode == plain.stat().st_mode


def test_an_optional_file_that_stays_empty_does_not_appear_and_an_older_one_goes(tmp_path: Path) -> None:
    paths = [tmp_path / "a", tmp_path / "b", tmp_path / "c"]
    (tmp_path / "b").write_bytes(b"of an older data set")
    with whole_files(paths, optional=paths[1:]) as (first, _, third):
        first.write(b"1")
        third.write(b"3")
    assert sorted(os.listdir(tmp_path)) == ["a", "c"]
