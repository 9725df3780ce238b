import contextlib
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from modellink_rm.base.errors import UserError
from modellink_rm.base.files import (
    check_not_lost,
    check_outputs,
    exclusive,
    name_directory,
    replace_directory,
    whole_file,
    whole_files,
    write_whole,
)
from modellink_rm.checkpoint.files import FILES_NAME
from modellink_rm.checkpoint.layout import RUN_NAME


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


@pytest.mark.parametrize("size", [10, 1 << 20])  # told when the file is closed, and in the midst of it
def test_a_full_disk_names_the_file_and_leaves_what_was_there(tmp_path: Path, size: Any) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"old")
    with limited_files(5), pytest.raises(OSError, match="File too large") as caught:
        write_whole(path, bytes(size))
    assert caught.value.filename == str(path)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x"]


def test_what_a_killed_run_left_of_a_file_goes_and_what_another_is_writing_stays(tmp_path: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    (tmp_path / f".x.{ended.pid}.0.tmp").write_bytes(b"half")
    (tmp_path / f".xy.{ended.pid}.0.tmp").write_bytes(b"of another file")
    (tmp_path / f".x.{os.getppid()}.0.tmp").write_bytes(b"of a run that goes on")
    write_whole(tmp_path / "x", b"new")
    assert sorted(os.listdir(tmp_path)) == [f".x.{os.getppid()}.0.tmp", f".xy.{ended.pid}.0.tmp", "x"]


@contextlib.contextmanager
def limited_files(num_bytes):
    """A system that refuses to make files longer, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_goes_wrong_in_the_block_is_not_hidden_by_a_full_disk(tmp_path: Path) -> None:
    def write_and_fail():
        with whole_file(tmp_path / "x") as file:
            file.write(bytes(100))  # in the buffer until the file is closed
            raise ValueError("the first error")

    with limited_files(5), pytest.raises(ValueError, match="the first error"):
        write_and_fail()
    assert os.listdir(tmp_path) == []


def test_a_directory_takes_the_place_of_another(tmp_path: Path) -> None:
    for name in ("new", "old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    replace_directory(tmp_path / "new", tmp_path / "old")
    assert os.listdir(tmp_path) == ["old"]
    assert os.listdir(tmp_path / "old") == ["new"]


def test_a_directory_that_cannot_be_replaced_stays(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    with pytest.raises(FileNotFoundError):
        replace_directory(tmp_path / "new", tmp_path / "old")
    assert os.listdir(tmp_path) == ["old"]


def test_a_directory_takes_a_name_that_nothing_has(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "taken").mkdir()
    with pytest.raises(UserError, match="taken is there already"):
        name_directory(tmp_path / "new", tmp_path / "taken")
    name_directory(tmp_path / "new", tmp_path / "free")
    assert sorted(os.listdir(tmp_path)) == ["free", "taken"]


def test_links_in_a_circle_are_a_file_that_is_read_like_any_other(tmp_path: Path) -> None:
    circle = tmp_path / "circle"
    circle.symlink_to(circle)
    check_outputs([("--output", tmp_path / "output")], inputs=[circle])
    with pytest.raises(UserError, match="which this command reads"):
        check_outputs([("--output", circle)], inputs=[circle])


@pytest.mark.parametrize("name", ["new/../rows", "new/../linked", "new/a/../../rows", "new/../directory/x"])
def test_an_output_by_way_of_a_directory_that_is_not_there_yet_is_the_file_that_it_will_be(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / "rows").touch()
    (tmp_path / "linked").symlink_to("rows")
    (tmp_path / "directory").mkdir()
    inputs = [tmp_path / "rows", tmp_path / "directory"]
    with pytest.raises(UserError, match="which this command reads"):
        check_outputs([("--output", tmp_path / name)], inputs=inputs)
    with pytest.raises(UserError, match="is not a regular file"):
        check_outputs([("--output", tmp_path / "new/../directory")], inputs=[])
    check_outputs([("--output", tmp_path / "new/../other")], inputs=inputs)


@pytest.mark.parametrize("name", ["run.json", "report.html", "tokenizer/tokenizer.model", "new/../run.json"])
def test_no_output_lies_in_a_checkpoint_that_is_not_read_either(tmp_path: Path, name: str) -> None:
    checkpoint = tmp_path / "run" / "iter_0000002"
    (checkpoint / "tokenizer").mkdir(parents=True)
    for mark in (RUN_NAME, FILES_NAME):
        check_outputs([("--output", checkpoint / name)], inputs=[])  # not a checkpoint yet
        (checkpoint / mark).touch()
    with pytest.raises(UserError, match=r"lies in the checkpoint .*iter_0000002"):
        check_outputs([("--output", checkpoint / name)], inputs=[])
    check_outputs([("--output", tmp_path / "run" / "report.html")], inputs=[])


def test_a_pipe_by_its_name_in_dev_is_no_file_that_may_be_replaced() -> None:
    reader, writer = os.pipe()
    with open(reader), open(writer, "w"), pytest.raises(UserError, match="is not a regular file"):
        check_outputs([("--output", Path(f"/dev/fd/{writer}"))], inputs=[])


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr("modellink_rm.base.files.SECONDS_FOR_A_DYING_RUN", 0.1)


HOLD = """
import os, sys
from pathlib import Path
from modellink_rm.base.files import exclusive
with exclusive(Path(sys.argv[1]), "held"):
    if len(sys.argv) > 2:
        os.fork() or os.execvp("sleep", ["sleep", "60"])
    print(os.getpid(), flush=True)
    sys.stdin.read()
"""


def holder(path, *more):
    """A process that holds the lock until its stdin is closed, or it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path), *more], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    process.stdout.readline()
    return process


@pytest.mark.usefixtures("impatient")
def test_one_process_at_a_time_holds_a_file(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with holder(path) as other:
        with pytest.raises(UserError, match="held"), exclusive(path, "held"):
            pass
        other.stdin.close()
        other.wait()
        with exclusive(path, "held"):
            pass


@pytest.mark.usefixtures("impatient")
def test_one_block_of_a_process_at_a_time_holds_a_file(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with exclusive(path, "held"):
        with pytest.raises(UserError, match="held"), exclusive(path, "held"):
            pass
        other = subprocess.run([sys.executable, "-c", HOLD, str(path)], capture_output=True, text=True)
        assert "UserError: held" in other.stderr  # the refused block did not let go of it
    with exclusive(path, "held"):
        pass


def test_children_of_a_killed_process_do_not_hold_its_files(tmp_path: Path) -> None:
    with holder(tmp_path / ".lock", "forks") as other:
        other.kill()
        with exclusive(tmp_path / ".lock", "held"):
            pass


def test_a_lock_of_a_removed_file_is_not_taken(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with exclusive(path, "held"):
        path.unlink()
    with exclusive(path, "held") as file:
        assert os.path.samestat(os.fstat(file.fileno()), path.stat())


def test_a_lock_that_lost_its_name_is_told_and_one_that_is_not_held_is_not(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    directory.mkdir()
    path = directory / ".lock"
    check_not_lost(path, "lost")  # held by none
    with exclusive(path, "held"):
        check_not_lost(path, "lost")
        directory.rename(tmp_path / "moved")
        with pytest.raises(UserError, match="lost"):
            check_not_lost(path, "lost")
        directory.mkdir()
        path.touch()  # of another run
        with pytest.raises(UserError, match="lost"):
            check_not_lost(path, "lost")
        path.unlink()
        directory.rmdir()
        directory.touch()
        with pytest.raises(UserError, match="lost"):
            check_not_lost(path, "lost")


def test_a_link_in_place_of_a_lock_is_refused_and_its_target_stays(tmp_path: Path) -> None:
    """Parts are written into the locked file: through a link they would take the place of what it names."""
    target, link = tmp_path / "precious", tmp_path / ".out.parts"
    target.write_text("content")
    link.symlink_to(target)
    with pytest.raises(UserError, match=r"\.out\.parts is a symbolic link"), exclusive(link, "held"):
        raise AssertionError("it was opened")
    assert target.read_text() == "content"


def test_a_link_to_an_open_file_as_dev_stdout_is_not_replaced(tmp_path: Path) -> None:
    """With the output redirected to a file it was a regular one: root replaced /dev/stdout itself."""
    link = tmp_path / "stdout"
    with (tmp_path / "redirected").open("w") as file:
        link.symlink_to(f"/proc/self/fd/{file.fileno()}")
        with pytest.raises(UserError, match="stdout is not a regular file"):
            check_outputs([("--output", link)], inputs=[])
