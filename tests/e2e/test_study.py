"""examples/study.sh: DPO raises the rule's rate on held-out questions, and the reward model agrees."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

STUDY = Path(__file__).parents[2] / "examples" / "study.sh"


def run_study(directory: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", str(STUDY)],
        cwd=directory,
        env={**os.environ, "PATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=900,
    )


@pytest.mark.full
@pytest.mark.timeout(900)
def test_dpo_raises_the_rules_rate_on_held_out_questions_and_the_reward_model_agrees(tmp_path: Path) -> None:
    done = run_study(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    rates = re.search(r"held-out questions, by the rule: base ([\d.]+), tuned ([\d.]+)$", done.stdout, re.M)
    before, after = map(float, rates.groups())
    assert 0.1 < before < 0.4
    assert after >= before + 0.2
    output = tmp_path / "study_output"
    results = json.loads((output / "study.json").read_text())
    assert results["unit"] == "tokens"
    for one in results["comparisons"]:
        assert one["win_rate"]["low"] > 0.6, one["name"]
        assert one["at_equal_length"]["difference"]["low"] > 0, one["name"]
    page = (output / "study.html").read_text()
    assert page.count("<svg ") == 6
    assert "held-out: largest gains of tuned" in page


def test_a_directory_of_someone_else_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.txt").touch()
    done = run_study(tmp_path, OUT="thesis")
    assert done.returncode == 2
    assert done.stderr.startswith("error: OUT=")
    assert (tmp_path / "thesis" / "chapter1.txt").exists()


def test_a_run_that_is_killed_while_it_makes_room_leaves_a_directory_for_the_next(tmp_path: Path) -> None:
    """It removed the mark with the rest, or made the directory before it: the next run was refused."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "rm").write_text('#!/bin/sh\nprintf "%s\\n" "$@" > "$OUT.removed"; exit 1\n')
    (tmp_path / "bin" / "rm").chmod(0o755)
    (tmp_path / "out").mkdir()
    path = {"OUT": str(tmp_path / "out"), "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    (tmp_path / "bin" / "python").symlink_to("/bin/false")
    assert run_study(tmp_path, **path).returncode == 1  # of python, in an empty directory
    (tmp_path / "out" / "stale").touch()
    assert run_study(tmp_path, **path).returncode == 1  # of rm
    removed = (tmp_path / "out.removed").read_text().split()[1:]
    assert [Path(word).name for word in removed] == ["stale"]
    assert (tmp_path / "out" / ".study").is_file()
