"""examples/quickstart.sh, as make quickstart runs it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart.sh"


def run_quickstart(directory: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", str(QUICKSTART)],
        cwd=directory,
        env={**os.environ, "PATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.full
def test_untrained_head_is_near_chance_and_trained_model_is_right_on_heldout_pairs(tmp_path: Path) -> None:
    # Half of the default steps; an earlier run's directory is replaced.
    (tmp_path / "quickstart_output").mkdir()
    (tmp_path / "quickstart_output" / ".quickstart").touch()
    (tmp_path / "quickstart_output" / "stale").touch()
    done = run_quickstart(tmp_path, TRAIN_ITERS="30")
    assert done.returncode == 0, done.stdout + done.stderr
    before, after = re.findall(r"^held-out accuracy (?:before|after) training: +([\d.]+)", done.stdout, re.M)
    assert 0.3 < float(before) < 0.7
    assert float(after) >= 0.9
    output = tmp_path / "quickstart_output"
    assert (output / "reward_model" / "latest_checkpointed_iteration.txt").read_text().strip() == "30"
    assert (output / "reward_model" / "metrics.jsonl").is_file()
    assert len((output / "scores_after.jsonl").read_text().splitlines()) == 120
    assert json.loads((output / "results.json").read_text())["models"][0]["sets"][0]["num_pairs"] == 120
    assert "held-out, by confidence" in done.stdout
    report = (output / "report.html").read_text()
    assert report.count("<svg ") >= 6 + 3 * 5
    assert "Scores before training" in report
    assert "accuracy on held-out" in report
    assert (output / "exported" / "model.safetensors").is_file()
    difference = re.search(r"^largest difference from \S+scores_after.jsonl: (\S+)$", done.stdout, re.M)
    assert float(difference.group(1)) <= 1e-4
    assert not (output / "stale").exists()
    assert "$ torchrun --standalone --nproc_per_node 2 pretrain_rm.py --stage rm" in done.stdout


def test_a_directory_of_someone_else_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.txt").touch()
    done = run_quickstart(tmp_path, OUT="thesis")
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
    assert run_quickstart(tmp_path, **path).returncode == 1  # of python, in an empty directory
    (tmp_path / "out" / "stale").touch()
    assert run_quickstart(tmp_path, **path).returncode == 1  # of rm
    removed = (tmp_path / "out.removed").read_text().split()[1:]
    assert [Path(word).name for word in removed] == ["stale"]
    assert (tmp_path / "out" / ".quickstart").is_file()
