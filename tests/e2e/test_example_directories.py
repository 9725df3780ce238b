"""The directory that quickstart.sh and study.sh make: nobody else's is replaced, their own always is."""

import os
from pathlib import Path

import pytest

from tests.example_scripts import run_script

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = pytest.mark.parametrize("name", ["quickstart", "study"])


@NAMES
def test_a_directory_of_someone_else_is_not_replaced(name: str, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.txt").touch()
    done = run_script(EXAMPLES / f"{name}.sh", tmp_path, {"OUT": "thesis"})
    assert done.returncode == 2
    assert done.stderr.startswith("error: OUT=")
    assert (tmp_path / "thesis" / "chapter1.txt").exists()


@NAMES
def test_a_run_that_is_killed_while_it_makes_room_leaves_a_directory_for_the_next(
    name: str, tmp_path: Path
) -> None:
    """It removed the mark with the rest, or made the directory before it: the next run was refused."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "rm").write_text('#!/bin/sh\nprintf "%s\\n" "$@" > "$OUT.removed"; exit 1\n')
    (tmp_path / "bin" / "rm").chmod(0o755)
    (tmp_path / "out").mkdir()
    path = {"OUT": str(tmp_path / "out"), "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    (tmp_path / "bin" / "python").symlink_to("/bin/false")
    script = EXAMPLES / f"{name}.sh"
    assert run_script(script, tmp_path, path).returncode == 1  # of python, in an empty directory
    (tmp_path / "out" / "stale").touch()
    assert run_script(script, tmp_path, path).returncode == 1  # of rm
    removed = (tmp_path / "out.removed").read_text().split()[1:]
    assert [Path(word).name for word in removed] == ["stale"]
    assert (tmp_path / "out" / f".{name}").is_file()


@NAMES
def test_a_second_run_does_not_take_the_directory_of_one_that_runs(name: str, tmp_path: Path) -> None:
    script, out = EXAMPLES / f"{name}.sh", tmp_path / "out"
    (tmp_path / "bin").mkdir()
    stub = tmp_path / "bin" / "python"
    # The first step of the first run is the second run.
    stub.write_text(
        f'#!/bin/sh\n[ -e "$OUT.second" ] && exit 9\ntouch "$OUT/made" "$OUT.second"; exec bash {script}\n'
    )
    stub.chmod(0o755)
    path = {"OUT": str(out), "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    done = run_script(script, tmp_path, path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: another run is making OUT={out}")
    assert (out / "made").exists()
