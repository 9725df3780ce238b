"""benchmarks/train.py without the other trainers: one that fails does not end the comparison."""

import importlib
import types
from pathlib import Path
from typing import Any

import pytest

from modellink_rm.base.errors import UserError

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("train")


def test_a_trainer_that_fails_is_left_out_and_the_others_go_on(
    train: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = []

    def run_runner(setting: Any, name: str, python: str) -> str:
        ran.append(name)
        if name == "trl":
            raise UserError("python trl_runner.py\nfailed with exit code 1:\ntorch.OutOfMemoryError: CUDA")
        return name

    monkeypatch.setattr(train, "run_runner", run_runner)
    monkeypatch.setattr(train, "measure_peak", lambda setting: {})
    monkeypatch.setattr(train, "median_step", lambda run, setting: 1.0)
    monkeypatch.setattr(train, "run_ours", lambda setting, name: types.SimpleNamespace(peak_memory_mb=1.0))
    setting = types.SimpleNamespace(arguments=types.SimpleNamespace(rounds=2))
    missing: dict[str, str] = {}
    runs, _ = train.measure(setting, {"shared": "python", "trl": "python"}, missing)
    assert {name: len(rounds) for name, rounds in runs.items()} == {"shared": 2}
    assert ran == ["trl"]  # not tried again
    assert missing == {"trl": "failed: torch.OutOfMemoryError: CUDA"}


def test_micro_batches_of_others_divide_the_batch(train: Any) -> None:
    words = ["--reference", "r", "--data", "d", "--batch-size", "32", "--peer-micro-batch-size"]
    assert train.parse_arguments([*words, "8"]).peer_micro_batch_size == 8
    with pytest.raises(UserError, match="--peer-micro-batch-size 5 does not divide --batch-size 32"):
        train.parse_arguments([*words, "5"])
