"""Lists of files: they say their own checksum, and name nothing outside of their directory."""

import json
from pathlib import Path

import pytest

from modellink_rm.base.checksums import FileEntry
from modellink_rm.base.errors import UserError
from modellink_rm.checkpoint.files import (
    FILES_NAME,
    check_contents,
    check_sizes,
    describe_files,
    files_json,
    read_files,
)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = tmp_path / "iter_0000001"
    (made / "tokenizer").mkdir(parents=True)
    (made / "a").write_bytes(b"first")
    (made / "tokenizer" / "b").write_bytes(b"second")
    (made / FILES_NAME).write_bytes(files_json(describe_files(made, [made / "a", made / "tokenizer" / "b"])))
    return made


def test_what_is_listed_is_read_again(directory: Path) -> None:
    entries = read_files(directory / FILES_NAME)
    assert sorted(entries) == ["a", "tokenizer/b"]
    check_sizes(directory, entries)
    check_contents(directory, entries)


def test_any_flipped_bit_of_the_list_is_refused_or_says_nothing(directory: Path) -> None:
    path = directory / FILES_NAME
    content = path.read_bytes()
    entries = read_files(path)
    for bit in range(0, 8 * len(content), 11):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        if chr(content[bit // 8]).isspace():  # between values: read as the same, or not at all
            try:
                assert read_files(path) == entries
            except UserError:
                continue
        else:
            with pytest.raises(UserError, match="is damaged"):
                read_files(path)


def test_changed_and_missing_files_are_named(directory: Path) -> None:
    entries = read_files(directory / FILES_NAME)
    (directory / "a").write_bytes(b"First")
    check_sizes(directory, entries)
    with pytest.raises(UserError, match="/a has changed since it was written"):
        check_contents(directory, entries)
    (directory / "a").unlink()
    with pytest.raises(UserError, match="/a cannot be read"):
        check_contents(directory, entries)
    with pytest.raises(UserError, match="/a is missing"):
        check_sizes(directory, entries)


@pytest.mark.parametrize("name", ["../a", "/etc/hostname", "tokenizer/../../a", "link/a"])
def test_names_stay_in_the_directory(directory: Path, name: str) -> None:
    (directory / "link").symlink_to("/etc")
    (directory / FILES_NAME).write_bytes(files_json({name: FileEntry(size=1, sha256="")}))
    with pytest.raises(UserError, match="which leads out of it"):
        read_files(directory / FILES_NAME)


def test_a_link_to_the_whole_checkpoint_is_followed(directory: Path) -> None:
    link = directory.with_name("link")
    link.symlink_to(directory)
    assert read_files(link / FILES_NAME) == read_files(directory / FILES_NAME)


def test_lists_of_earlier_versions_are_read(directory: Path) -> None:
    (directory / FILES_NAME).write_text(json.dumps({"a": [5, None]}))
    assert read_files(directory / FILES_NAME) == {"a": FileEntry(size=5, sha256="")}
