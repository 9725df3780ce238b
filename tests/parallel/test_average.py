"""The mean of the weights of checkpoints, read at one parallel size and written at another."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from modellink_rm.base.errors import UserError
from modellink_rm.checkpoint.layout import read_checkpoint_info
from modellink_rm.config.average import AverageConfig
from modellink_rm.config.parallel import ParallelConfig
from tests.distributed import Workers
from tests.marks import full
from tests.parallel.conftest import NUM_STEPS
from tests.runs import run_training

SIZES: dict[str, tuple[int, dict[str, Any]]] = {
    "one": (1, {}),
    "dp2": (2, {}),
    "tp2": (2, {"tensor_model_parallel_size": 2}),
    "pp2": (2, {"pipeline_model_parallel_size": 2}),
}
HALF = NUM_STEPS // 2


def average_on_rank(load: list[str], output: str, options: dict[str, Any], sizes: dict[str, Any]) -> None:
    from modellink_rm.conversion.average import average_checkpoints, plan_average

    config = AverageConfig(load=tuple(load), output=output, **options)
    average_checkpoints(plan_average(config, ParallelConfig(**sizes)))


def weights_of(
    checkpoint: Path, arguments: list[str], workers: Workers, directory: Path
) -> dict[str, torch.Tensor]:
    flags = f"--load {checkpoint} --finetune --lr 0 --train-iters 1 --eval-iters 0"
    return run_training(workers, 1, [*arguments, *flags.split()], directory, saves=False).weights


Run = tuple[Path, dict[str, torch.Tensor]]  # its last checkpoint, and the weights that this holds


@pytest.fixture(scope="module")
def runs(arguments: list[str], workers: Workers, tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """Two runs from one model, one of them over two pipeline stages."""
    directory = tmp_path_factory.mktemp("runs")
    found = []
    for seed, size in ((1, 1), (2, 2)):
        words = f"--seed {seed} --eval-iters 0 --pipeline-model-parallel-size {size}"
        run = run_training(workers, size, [*arguments, *words.split()], directory / str(seed))
        found.append((directory / str(seed) / f"iter_{NUM_STEPS:07d}", run.weights))
    return found


@pytest.mark.parametrize("size", [full("one"), full("dp2"), full("tp2"), "pp2"])
def test_weights_are_the_weighted_means_of_those_of_the_checkpoints(
    size: str, arguments: list[str], runs: list[Run], workers: Workers, tmp_path: Path
) -> None:
    number, sizes = SIZES[size]
    output = tmp_path / "mean"
    (first, one), (second, two) = runs
    words = [str(first), str(second)]
    workers.run(average_on_rank, number, words, str(output), {"weights": (3.0, 1.0)}, sizes)
    mean = weights_of(output, arguments, workers, tmp_path / "read")
    assert any(not torch.equal(one[name], two[name]) for name in mean)
    for name, weight in mean.items():
        expected = (0.75 * one[name].double() + 0.25 * two[name].double()).float()
        assert torch.equal(weight, expected), name


@pytest.mark.full
def test_mean_of_equal_weights_is_bitwise_theirs_and_keeps_the_contract(
    arguments: list[str], workers: Workers, tmp_path: Path
) -> None:
    """Also in bfloat16, and of three, whose shares have no exact number."""
    flags = "--bf16 --lr 0 --save-interval 1 --train-iters 3 --prompt-type llama2"
    run_training(workers, 1, [*arguments, *flags.split()], tmp_path / "run")
    words = [str(path) for path in sorted((tmp_path / "run").glob("iter_*"))]
    assert len(words) == 3
    workers.run(average_on_rank, 1, words, str(tmp_path / "mean"), {}, {})
    checkpoint = tmp_path / "mean" / "iter_0000000"
    info = read_checkpoint_info(checkpoint)
    assert (info.run.iteration, info.run.setting("precision", "bf16")) == (0, True)
    assert info.run.config["average"] == {"load": words, "shares": [1 / 3] * 3}
    for name in ("inference_contract.json", "base_model/config.json", "tokenizer/tokenizer.model"):
        assert (checkpoint / name).read_bytes() == (Path(words[0]) / name).read_bytes()
    assert json.loads((checkpoint / "inference_contract.json").read_text())["prompt_type"] == "llama2"
    one = weights_of(Path(words[0]), [*arguments, "--bf16"], workers, tmp_path / "one")
    mean = weights_of(checkpoint, [*arguments, "--bf16"], workers, tmp_path / "read")
    assert all(torch.equal(mean[name], weight) for name, weight in one.items())


def refusal(load: list[str], output: Path) -> str:
    from modellink_rm.conversion.average import plan_average

    with pytest.raises(UserError) as refused:
        plan_average(AverageConfig(load=tuple(load), output=str(output)), ParallelConfig())
    message = str(refused.value)
    assert "\n" not in message
    return message


def test_checkpoints_that_do_not_belong_together_are_refused(
    arguments: list[str], runs: list[Run], tmp_path: Path
) -> None:
    one, two = (str(path) for path, _ in runs)
    output = tmp_path / "mean"
    assert "is given twice" in refusal([one, str(runs[0][0].parent)], output)
    assert f"--output {tmp_path} is there already" in refusal([one, two], tmp_path)
    model = arguments[arguments.index("--load") + 1]
    assert "is no checkpoint of this tool" in refusal([one, model], output)
