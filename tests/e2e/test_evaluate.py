"""`evaluate` under torchrun."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.distributed import Workers

ROOT = Path(__file__).parents[2]
FIXTURE = ROOT / "tests" / "fixtures" / "checkpoint_v1"
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
ROWS = [
    {"prompt": "the cat", "chosen": "sings", "rejected": "the moon falls", "subset": "hep-js"},
    {"prompt": "a dog", "chosen": "runs", "rejected": "the tree", "subset": "donotanswer"},
]


def evaluated(argv: list[str]) -> int:
    from modellink_rm.commands.evaluate import main

    return main(argv)


@pytest.mark.full
def test_two_models_under_torchrun_have_the_numbers_of_one_process(tmp_path: Path, workers: Workers) -> None:
    """torchrun's store outlives the first model's process groups."""
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    flags = f"--load {FIXTURE}/iter_0000002 --compare {FIXTURE}/iter_0000002 --output {tmp_path}/results.json"
    flags += f" --handler-name SharegptStylePairwiseHandler --data a={FIXTURE}/pairs.jsonl"
    flags += f" --benchmark rewardbench={tmp_path}/rows.jsonl"
    words = ["-m", "modellink_rm", "evaluate", *flags.split(), "--tensor-model-parallel-size", "2"]
    done = subprocess.run(
        [*TORCHRUN, *words],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("iter_0000002 minus") == 1  # one process prints
    together: dict[str, Any] = json.loads((tmp_path / "results.json").read_text())
    assert workers.run(evaluated, 1, flags.split()) == [0]
    alone: dict[str, Any] = json.loads((tmp_path / "results.json").read_text())
    assert len(together["models"]) == 2
    for model in together["models"]:
        (found,), (expected,) = model["sets"], alone["models"][0]["sets"]
        assert found["accuracy"] == expected["accuracy"]
        for name in ("chosen_score", "rejected_score", "margin", "ece", "auc"):
            assert found[name] == pytest.approx(expected[name], abs=1e-5)
        assert model["benchmarks"] == alone["models"][0]["benchmarks"]
    assert together["comparisons"] == alone["comparisons"]
