"""The directory of export and import is made by one run at a time, and nothing that is there is lost."""

from pathlib import Path

import pytest

from modellink_rm.base.errors import UserError
from modellink_rm.base.files import exclusive
from modellink_rm.checkpoint.files import FILES_NAME
from modellink_rm.checkpoint.layout import RUN_NAME
from modellink_rm.conversion.output import check_is_new, making


def test_one_run_at_a_time_makes_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modellink_rm.base.files.SECONDS_FOR_A_DYING_RUN", 0.1)
    output = str(tmp_path / "a" / "out")
    (tmp_path / "a").mkdir()
    with (
        exclusive(tmp_path / "a" / ".out.lock", ""),
        pytest.raises(UserError, match="another run is making it; give another name"),
        making(output),
    ):
        pass
    with making(output):
        (tmp_path / "a" / "out").mkdir()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["out"]


def test_what_is_there_meanwhile_stays(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with (
        pytest.raises(UserError, match="is there already; give a name that is not"),
        making(f"{tmp_path}/out"),
    ):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("name", ["out.tmp/x", "out/iter_0000000.tmp/x", "out/iter_0000000/run.json"])
def test_a_failure_leaves_nothing(name: str, tmp_path: Path) -> None:
    def fail() -> None:
        with making(str(tmp_path / "out"), is_checkpoint=True):
            (tmp_path / name).parent.mkdir(parents=True)
            (tmp_path / name).touch()
            if name.startswith("out/"):
                (tmp_path / "out" / "latest_checkpointed_iteration.txt").touch()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["run.json", "iter_0000000", "iter_0000000.tmp/x"])
def test_what_a_killed_import_left_is_made_anew_and_nothing_else(name: str, tmp_path: Path) -> None:
    output = tmp_path / "out"
    (output / name).mkdir(parents=True)
    if name.endswith("/x"):
        check_is_new(str(output))
        (output / "mine").touch()
    with pytest.raises(UserError, match="is there already"):
        check_is_new(str(output))


def test_no_directory_is_made_in_a_checkpoint(tmp_path: Path) -> None:
    """Nor in one that the command does not read: pruning it took an export in it away."""
    checkpoint = tmp_path / "run" / "iter_0000002"
    checkpoint.mkdir(parents=True)
    for mark in (RUN_NAME, FILES_NAME):
        (checkpoint / mark).touch()
    for output in (
        checkpoint / "out",
        checkpoint / "a" / "out",
        tmp_path / "new" / ".." / "run" / "iter_0000002" / "out",
    ):
        with pytest.raises(UserError, match=r"lies in the checkpoint .*iter_0000002"):
            check_is_new(str(output))
    check_is_new(str(checkpoint.parent / "out"))
