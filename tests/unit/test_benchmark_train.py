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


def test_rankings_have_their_own_responses_first_and_those_of_the_pairs_after(train: Any) -> None:
    pairs = [
        {
            "conversations": [{"from": "human", "value": f"q{number}"}],
            "chosen": {"from": "gpt", "value": f"good{number}"},
            "rejected": {"from": "gpt", "value": f"bad{number}"},
        }
        for number in range(3)
    ]
    first, *_, last = train.rankings_of(pairs, 4)
    assert first["prompt"] == [{"role": "user", "content": "q0"}]
    assert first["responses"] == ["good0", "bad0", "good1", "bad1"]
    assert first["ranks"] == [1, 2, 3, 4]
    assert last["responses"] == ["good2", "bad2", "good0", "bad0"]


def test_others_get_every_pair_of_a_prompt(train: Any) -> None:
    words = ["--reference", "r", "--data", "d", "--batch-size", "4", "--responses"]
    arguments = train.parse_arguments([*words, "4", "--peer-micro-batch-size", "8"])
    setting = train.Setting(arguments, Path(), Path(), [])
    assert setting.pairs_of_a_step == 24
    with pytest.raises(UserError, match="--peer-micro-batch-size 7 does not divide --batch-size 4 x 6 pairs"):
        train.parse_arguments([*words, "4", "--peer-micro-batch-size", "7"])
    with pytest.raises(UserError, match="--responses 1: a pair has 2"):
        train.parse_arguments([*words, "1"])


def test_adapters_are_compared_with_trl_alone(train: Any) -> None:
    words = ["--reference", "r", "--data", "d", "--lora", "16"]
    assert train.parse_arguments(words).trainers == ["packed", "shared", "trl"]
    with pytest.raises(UserError, match="--lora compares packed, shared, trl; leave others out"):
        train.parse_arguments([*words, "--trainers", "plain_loop"])


def test_adapter_of_the_benchmark_fits_the_model(train: Any, tmp_path: Path) -> None:
    from modellink_rm.checkpoint.model_plan import plan_model
    from modellink_rm.checkpoint.source import open_source
    from modellink_rm.config.model import ModelConfig
    from modellink_rm.config.parallel import ParallelConfig
    from tests.tiny_models import write_tiny_llama

    write_tiny_llama(tmp_path / "model", value_head=True, sharded=True)
    train.write_random_adapter(tmp_path / "model", tmp_path / "adapter", rank=4)
    source = open_source(str(tmp_path / "model"), adapter=str(tmp_path / "adapter"))
    lora = plan_model(source, ModelConfig(), ParallelConfig(), loosely=True).spec.lora
    assert lora is not None
    assert (lora.rank, lora.alpha, len(lora.targets)) == (4, 8, 7)
