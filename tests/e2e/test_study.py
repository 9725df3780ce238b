"""examples/study.sh: DPO raises the rule's rate on held-out questions, and the reward model agrees."""

import json
import re
from pathlib import Path

import pytest

from tests.example_scripts import run_script

STUDY = Path(__file__).parents[2] / "examples" / "study.sh"


@pytest.mark.full
@pytest.mark.timeout(900)
def test_dpo_raises_the_rules_rate_on_held_out_questions_and_the_reward_model_agrees(tmp_path: Path) -> None:
    done = run_script(STUDY, tmp_path, seconds=900)
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
