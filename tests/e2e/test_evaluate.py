"""`evaluate` under torchrun."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FIXTURE = ROOT / "tests" / "fixtures" / "checkpoint_v1"
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def evaluated(start: list[str], flags: str, directory: Path) -> dict[str, Any]:
    """The first model's and the second's only set, of a run that prints one table."""
    words = f"-m modellink_rm evaluate --load {FIXTURE}/iter_0000002 --compare {FIXTURE}/iter_0000002"
    words += f" --handler-name SharegptStylePairwiseHandler --data a={FIXTURE}/pairs.jsonl {flags}"
    words += f" --output {directory}/results.json"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*start, *words.split()], capture_output=True, text=True, env=environment, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("95% interval") == 2 * 2 + 1  # each model's set and lengths, the comparison
    found: dict[str, Any] = json.loads((directory / "results.json").read_text())
    return found


def test_two_models_under_torchrun_have_the_numbers_of_one_process(tmp_path: Path) -> None:
    """torchrun's store outlives the first model's process groups."""
    together = evaluated(TORCHRUN, "--tensor-model-parallel-size 2", tmp_path)
    alone = evaluated([sys.executable], "", tmp_path)
    assert len(together["models"]) == 2
    for model in together["models"]:
        (found,), (expected,) = model["sets"], alone["models"][0]["sets"]
        assert found["accuracy"] == expected["accuracy"]
        for name in ("chosen_score", "rejected_score", "margin", "ece", "auc"):
            assert found[name] == pytest.approx(expected[name], abs=1e-5)
    assert together["comparisons"][0]["sets"] == alone["comparisons"][0]["sets"]
