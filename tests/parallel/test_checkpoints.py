"""Checkpoints: a resumed run is the uninterrupted one, at any parallel size."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from modellink_rm.base.errors import UserError
from modellink_rm.checkpoint.layout import read_checkpoint_info
from tests.distributed import Workers
from tests.marks import full
from tests.parallel.comparison import check_same_weights
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
    "one_bf16": (1, "--bf16"),
    "dp2_distributed_bf16": (2, "--bf16 --use-distributed-optimizer"),
    "dropout": (1, "--attention-dropout 0.1 --hidden-dropout 0.1"),
    "tp2_distributed": (2, "--tensor-model-parallel-size 2 --use-distributed-optimizer"),
    "tp2_pp2": (4, "--tensor-model-parallel-size 2 --pipeline-model-parallel-size 2"),
    "tp2_dp2_distributed": (4, "--tensor-model-parallel-size 2 --use-distributed-optimizer"),
}


HalfRuns = Callable[[str, Path], RunResult]


@pytest.fixture(scope="module")
def half_run(arguments: list[str], workers: Workers, tmp_path_factory: pytest.TempPathFactory) -> HalfRuns:
    """Runs of the sizes above that stop after HALF of their steps, by being saved then and killed later.

    Called with a size and a directory, it copies there what such a run leaves, which is made once.
    """
    made: dict[str, tuple[RunResult, Path]] = {}

    def copied(size: str, save: Path) -> RunResult:
        if size not in made:
            world_size, flags = SIZES[size]
            directory = tmp_path_factory.mktemp(size)
            argv = [*arguments, *flags.split(), "--save-interval", str(HALF)]
            made[size] = run_training(workers, world_size, argv, directory), directory
            shutil.rmtree(directory / f"iter_{NUM_STEPS:07d}")
            (directory / "latest_checkpointed_iteration.txt").write_text(f"{HALF}\n")
        run, directory = made[size]
        shutil.copytree(directory, save, dirs_exist_ok=True)
        return run

    return copied


@pytest.mark.parametrize(
    "size",
    [
        "one",
        full("dp2_distributed"),
        "tp2_pp2",
        full("pp2_vpp2"),
        full("pp2_vpp2_dp2_distributed"),
        full("pp2_vpp2_bf16"),
        full("one_bf16"),
        "dp2_distributed_bf16",
        "dropout",
    ],
)
def test_resumed_run_equals_uninterrupted_one_bitwise(
    size: str, arguments: list[str], half_run: HalfRuns, workers: Workers, tmp_path: Path
) -> None:
    whole = half_run(size, tmp_path)
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
        full("tp2_sp", "dp2"),
        full("dp2_distributed", "one_distributed"),
        ("dp2_distributed", "tp2_sp_distributed"),
        full("tp2_dp2_distributed", "pp2_distributed"),
        full("pp2_distributed", "tp2_dp2_distributed"),
        full("pp2_vpp2", "one"),
        full("pp2_vpp2", "pp2"),
        full("pp2_vpp2_tp2", "tp2_sp"),
        ("one", "pp2_vpp2"),
        full("pp2", "pp2_vpp2"),
        full("tp2_sp", "pp2_vpp2"),
        full("pp2_vpp2_dp2_distributed", "one_distributed"),
        full("pp2_vpp2_dp2_distributed", "pp2_distributed"),
        full("pp2_vpp2_dp2_distributed", "tp2_distributed"),
        full("pp2_distributed", "pp2_vpp2_dp2_distributed"),
        full("tp2_dp2_distributed", "pp2_vpp2_dp2_distributed"),
    ],
)
def test_checkpoint_continues_at_other_parallel_sizes(
    writer: str,
    reader: str,
    arguments: list[str],
    single: RunResult,
    half_run: HalfRuns,
    workers: Workers,
    tmp_path: Path,
) -> None:
    half_run(writer, tmp_path)
    world_size, flags = SIZES[reader]
    resumed = run_training(workers, world_size, [*arguments, *flags.split(), "--auto-resume"], tmp_path)
    assert resumed.column("iteration") == single.column("iteration")
    # Sums in another order: float32 rounding, grown by Adam steps at a large learning rate.
    assert resumed.column("loss") == pytest.approx(single.column("loss"), abs=2e-5)
    assert resumed.column("grad_norm") == pytest.approx(single.column("grad_norm"), rel=1e-4)
    check_same_weights(resumed, single)


def test_finetune_takes_the_weights_and_starts_at_step_0(
    arguments: list[str], workers: Workers, tmp_path: Path
) -> None:
    first = run_training(workers, 1, arguments, tmp_path / "first")
    flags = [*arguments, "--load", str(tmp_path / "first"), "--finetune", "--lr", "0"]
    argv = [*flags, "--tensor-model-parallel-size", "2"]
    second = run_training(workers, 2, argv, tmp_path / "second", saves=False)
    assert second.column("iteration") == list(range(1, NUM_STEPS + 1))
    for name, weight in first.weights.items():
        assert torch.equal(second.weights[name], weight), name


def test_no_load_optim_keeps_the_iteration(
    arguments: list[str], half_run: HalfRuns, workers: Workers, tmp_path: Path
) -> None:
    half_run("one", tmp_path)
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
def test_changed_file_of_a_checkpoint_is_named(name: str, half_run: HalfRuns, tmp_path: Path) -> None:
    half_run("one", tmp_path)
    checkpoint = tmp_path / f"iter_{HALF:07d}"
    assert read_checkpoint_info(checkpoint).run.iteration == HALF
    content = bytearray((checkpoint / name).read_bytes())
    content[len(content) // 2] ^= 1
    (checkpoint / name).write_bytes(content)
    with pytest.raises(UserError, match=re.escape(Path(name).name)):
        read_checkpoint_info(checkpoint)


@pytest.mark.parametrize("damage", ["missing", "cut off"])
def test_damaged_tensor_file_of_a_checkpoint_is_named(
    damage: str, half_run: HalfRuns, tmp_path: Path
) -> None:
    half_run("one", tmp_path)
    checkpoint = tmp_path / f"iter_{HALF:07d}"
    tensors = next(checkpoint.glob("*.distcp"))
    content = tensors.read_bytes()
    tensors.unlink()
    if damage == "cut off":
        tensors.write_bytes(content[:-1])
    with pytest.raises(UserError, match=tensors.name):
        read_checkpoint_info(checkpoint)
