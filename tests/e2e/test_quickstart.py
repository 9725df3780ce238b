"""examples/quickstart.sh, as make quickstart runs it."""

import json
import re
from pathlib import Path

import pytest

from tests.example_scripts import run_script

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart.sh"


@pytest.mark.full
def test_untrained_head_is_near_chance_and_trained_model_is_right_on_heldout_pairs(tmp_path: Path) -> None:
    # Half of the default steps; an earlier run's directory is replaced.
    (tmp_path / "quickstart_output").mkdir()
    (tmp_path / "quickstart_output" / ".quickstart").touch()
    (tmp_path / "quickstart_output" / "stale").touch()
    done = run_script(QUICKSTART, tmp_path, {"TRAIN_ITERS": "30"})
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
