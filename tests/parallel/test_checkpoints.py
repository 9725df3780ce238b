"""Checkpoints: a resumed run is the uninterrupted one, at any parallel size."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from modellink_rm.base.errors import UserError
from modellink_rm.checkpoint.layout import read_checkpoint_info
from tests.distributed import Workers
from tests.parallel.conftest import NUM_STEPS
from tests.runs import RunResult, run_training

HALF = NUM_STEPS // 2
INTERLEAVED = "--pipeline-model-parallel-size 2 --num-layers-per-virtual-pipeline-stage 1"
SIZES = {
    "one": (1, ""),
    "dp2_distributed": (2, "--use-distributed-optimizer"),
    "one_distributed": (1, "--use-distributed-optimizer"),
    "tp2_sp_distributed": (
        2,
        "--tensor-model-parallel-size 2 --sequence-parallel --use-distributed-optimizer",
    ),
    "pp2_distributed": (2, "--pipeline-model-parallel-size 2 --use-distributed-optimizer"),
    "dp2": (2, ""),
    "tp2_sp": (2, "--tensor-model-parallel-size 2 --sequence-parallel"),
    "pp2": (2, "--pipeline-model-parallel-size 2"),
    "pp2_vpp2": (2, INTERLEAVED),
    "pp2_vpp2_bf16": (2, f"{INTERLEAVED} --bf16"),
    "pp2_vpp2_tp2": (4, f"{INTERLEAVED} --tensor-model-parallel-size 2"),
    "pp2_vpp2_dp2_distributed": (4, f"{INTERLEAVED} --use-distributed-optimizer"),
    "tp2_distributed": (2, "--tensor-model-parallel-size 2 --use-distributed-optimizer"),
    "tp2_pp2": (4, "--tensor-model-parallel-size 2 --pipeline-model-parallel-size 2"),
    "tp2_dp2_distributed": (4, "--tensor-model-parallel-size 2 --use-distributed-optimizer"),
}


def half_run(workers: Workers, arguments: list[str], size: str, save: Path) -> RunResult:
    """A run that stops after HALF of its steps, by being saved then and killed later."""
    world_size, flags = SIZES[size]
    run = run_training(workers, world_size, [*arguments, *flags.split(), "--save-interval", str(HALF)], save)
    shutil.rmtree(save / f"iter_{NUM_STEPS:07d}")
    (save / "latest_checkpointed_iteration.txt").write_text(f"{HALF}\n")
    return run


@pytest.mark.parametrize(
    "size", ["one", "dp2_distributed", "tp2_pp2", "pp2_vpp2", "pp2_vpp2_dp2_distributed", "pp2_vpp2_bf16"]
)
def test_resumed_run_equals_uninterrupted_one_bitwise(
    size: str, arguments: list[str], workers: Workers, tmp_path: Path
) -> None:
    whole = half_run(workers, arguments, size, tmp_path)
    world_size, flags = SIZES[size]
    resumed = run_training(workers, world_size, [*arguments, *flags.split(), "--auto-resume"], tmp_path)
    for name in ("iteration", "consumed_samples", "loss", "grad_norm", "learning_rate", "margin"):
        assert resumed.column(name) == whole.column(name)
    for name, weight in whole.weights.items():
        assert torch.equal(resumed.weights[name], weight), name


@pytest.mark.parametrize(
    ("writer", "reader"),
    [
        ("one", "tp2_pp2"),
        ("tp2_pp2", "one"),
        ("tp2_sp", "dp2"),
        ("dp2_distributed", "one_distributed"),
        ("dp2_distributed", "tp2_sp_distributed"),
        ("tp2_dp2_distributed", "pp2_distributed"),
        ("pp2_distributed", "tp2_dp2_distributed"),
        ("pp2_vpp2", "one"),
        ("pp2_vpp2", "pp2"),
        ("pp2_vpp2_tp2", "tp2_sp"),
        ("one", "pp2_vpp2"),
        ("pp2", "pp2_vpp2"),
        ("tp2_sp", "pp2_vpp2"),
        ("pp2_vpp2_dp2_distributed", "one_distributed"),
        ("pp2_vpp2_dp2_distributed", "pp2_distributed"),
        ("pp2_vpp2_dp2_distributed", "tp2_distributed"),
        ("pp2_distributed", "pp2_vpp2_dp2_distributed"),
        ("tp2_dp2_distributed", "pp2_vpp2_dp2_distributed"),
    ],
)
def test_checkpoint_continues_at_other_parallel_sizes(
    writer: str, reader: str, arguments: list[str], single: RunResult, workers: Workers, tmp_path: Path
) -> None:
    half_run(workers, arguments, writer, tmp_path)
    world_size, flags = SIZES[reader]
    resumed = run_training(workers, world_size, [*arguments, *flags.split(), "--auto-resume"], tmp_path)
    assert resumed.column("iteration") == single.column("iteration")
    # Sums in another order: float32 rounding, grown by Adam steps at a large learning rate.
    assert resumed.column("loss") == pytest.approx(single.column("loss"), abs=2e-5)
    assert resumed.column("grad_norm") == pytest.approx(single.column("grad_norm"), rel=1e-4)
    for name, weight in single.weights.items():
        torch.testing.assert_close(resumed.weights[name], weight, atol=2e-4, rtol=1e-3)


def test_bf16_checkpoint_with_distributed_optimizer_resumes_bitwise(
    arguments: list[str], workers: Workers, tmp_path: Path
) -> None:
    flags = [*arguments, "--bf16", "--use-distributed-optimizer"]
    whole = run_training(workers, 2, [*flags, "--save-interval", str(HALF)], tmp_path)
    shutil.rmtree(tmp_path / f"iter_{NUM_STEPS:07d}")
    (tmp_path / "latest_checkpointed_iteration.txt").write_text(f"{HALF}\n")
    resumed = run_training(workers, 2, [*flags, "--auto-resume"], tmp_path)
    assert resumed.column("loss") == whole.column("loss")
    for name, weight in whole.weights.items():
        assert torch.equal(resumed.weights[name], weight), name


def test_bf16_checkpoint_with_plain_optimizer_resumes_bitwise(
    arguments: list[str], workers: Workers, tmp_path: Path
) -> None:
    whole = run_training(workers, 1, [*arguments, "--bf16", "--save-interval", str(HALF)], tmp_path)
    shutil.rmtree(tmp_path / f"iter_{NUM_STEPS:07d}")
    (tmp_path / "latest_checkpointed_iteration.txt").write_text(f"{HALF}\n")
    resumed = run_training(workers, 1, [*arguments, "--bf16", "--auto-resume"], tmp_path)
    assert resumed.column("loss") == whole.column("loss")
    for name, weight in whole.weights.items():
        assert torch.equal(resumed.weights[name], weight), name


def test_dropout_resumes_bitwise(arguments: list[str], workers: Workers, tmp_path: Path) -> None:
    flags = [*arguments, "--attention-dropout", "0.1", "--hidden-dropout", "0.1"]
    whole = run_training(workers, 1, [*flags, "--save-interval", str(HALF)], tmp_path)
    shutil.rmtree(tmp_path / f"iter_{NUM_STEPS:07d}")
    (tmp_path / "latest_checkpointed_iteration.txt").write_text(f"{HALF}\n")
    resumed = run_training(workers, 1, [*flags, "--auto-resume"], tmp_path)
    assert resumed.column("loss") == whole.column("loss")


def test_finetune_takes_the_weights_and_starts_at_step_0(
    arguments: list[str], workers: Workers, tmp_path: Path
) -> None:
    first = run_training(workers, 1, arguments, tmp_path / "first")
    flags = [*arguments, "--load", str(tmp_path / "first"), "--finetune", "--lr", "0"]
    second = run_training(workers, 2, [*flags, "--tensor-model-parallel-size", "2"], tmp_path / "second")
    assert second.column("iteration") == list(range(1, NUM_STEPS + 1))
    for name, weight in first.weights.items():
        assert torch.equal(second.weights[name], weight), name


def test_no_load_optim_keeps_the_iteration(arguments: list[str], workers: Workers, tmp_path: Path) -> None:
    half_run(workers, arguments, "one", tmp_path)
    flags = [*arguments, "--auto-resume", "--no-load-optim", "--no-load-rng"]
    resumed = run_training(workers, 1, flags, tmp_path)
    assert resumed.column("iteration") == list(range(1, NUM_STEPS + 1))


def test_checkpoint_holds_contract_and_configuration(
    arguments: list[str], workers: Workers, tmp_path: Path
) -> None:
    run_training(workers, 1, [*arguments, "--prompt-type", "llama2"], tmp_path)
    checkpoint = tmp_path / f"iter_{NUM_STEPS:07d}"
    contract = json.loads((checkpoint / "inference_contract.json").read_text())
    assert contract["prompt_type"] == "llama2"
    assert contract["scored_token"] == "last token of the rendered response"
    assert (checkpoint / "tokenizer" / "tokenizer.model").is_file()
    assert json.loads((checkpoint / "base_model" / "config.json").read_text())["model_type"] == "llama"
    assert json.loads((checkpoint / "run.json").read_text())["config"]["optim"]["lr"] == 1e-3
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize(
    "name", ["common.pt", "tokenizer/tokenizer.model", "run.json", "inference_contract.json"]
)
def test_changed_file_of_a_checkpoint_is_named(
    name: str, arguments: list[str], workers: Workers, tmp_path: Path
) -> None:
    run_training(workers, 1, [*arguments, "--train-iters", "1"], tmp_path)
    checkpoint = tmp_path / "iter_0000001"
    assert read_checkpoint_info(checkpoint).iteration == 1
    content = bytearray((checkpoint / name).read_bytes())
    content[len(content) // 2] ^= 1
    (checkpoint / name).write_bytes(content)
    with pytest.raises(UserError, match=re.escape(Path(name).name)):
        read_checkpoint_info(checkpoint)


@pytest.mark.parametrize("damage", ["missing", "cut off"])
def test_damaged_tensor_file_of_a_checkpoint_is_named(
    damage: str, arguments: list[str], workers: Workers, tmp_path: Path
) -> None:
    run_training(workers, 1, [*arguments, "--train-iters", "1"], tmp_path)
    tensors = next((tmp_path / "iter_0000001").glob("*.distcp"))
    content = tensors.read_bytes()
    tensors.unlink()
    if damage == "cut off":
        tensors.write_bytes(content[:-1])
    with pytest.raises(UserError, match=tensors.name):
        read_checkpoint_info(tmp_path / "iter_0000001")
