"""What recipes set beside the loss: dropout of the head, frozen weights, schedules, at any parallel size."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.distributed import Workers
from tests.marks import full
from tests.parallel.comparison import check_same
from tests.parallel.conftest import NUM_STEPS
from tests.runs import RunResult, run_training, train_part

HALF = NUM_STEPS // 2
PP2 = "--pipeline-model-parallel-size 2"
VPP2 = f"{PP2} --num-layers-per-virtual-pipeline-stage 1"
TP2 = "--tensor-model-parallel-size 2 --sequence-parallel"
# The tiny model has four layers: with two stages the first one has nothing to train.
RECIPES = {
    "head_dropout": "--head-dropout 0.3",
    "head_alone": "--freeze-base",
    "last_layer": "--train-last-n-layers 1",
    "last_layers": "--train-last-n-layers 3",  # the first stage trains one of its layers
    "all_layers": "--train-last-n-layers 4",
    "last_layer_and_dropout": "--train-last-n-layers 1 --head-dropout 0.3",
}
SIZES = {
    "one_micro_batch": (1, "--max-tokens-per-micro-batch 10000"),
    "prompts_apart": (1, "--no-prefix-sharing --max-tokens-per-micro-batch 60"),
    "recompute_full": (1, "--recompute-granularity full"),
    "recompute_full_two": (1, "--recompute-granularity full --recompute-num-layers 2"),
    "tp2": (2, TP2),
    "pp2": (2, PP2),
    "pp2_recompute_full": (2, f"{PP2} --recompute-granularity full"),
    "pp2_distributed": (2, f"{PP2} --use-distributed-optimizer"),
    "pp2_vpp2": (2, VPP2),
    "dp2": (2, ""),
    "dp2_distributed": (2, "--use-distributed-optimizer --overlap-grad-reduce --overlap-param-gather"),
    "pp2_dp2_overlap": (
        4,
        f"{PP2} --use-distributed-optimizer --overlap-grad-reduce --overlap-param-gather",
    ),
    "cp2": (2, "--context-parallel-size 2"),
}


@pytest.fixture(scope="module")
def one_process(
    arguments: list[str], workers: Workers, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, RunResult]:
    """Runs of recipes in one process, made when they are asked for."""

    class Runs(dict[str, RunResult]):
        def __missing__(self, recipe: str) -> RunResult:
            directory = tmp_path_factory.mktemp(recipe)
            argv = [*arguments, *RECIPES[recipe].split()]
            self[recipe] = run_training(workers, 1, argv, directory, saves=False)
            return self[recipe]

    return Runs()


@pytest.mark.parametrize(
    ("recipe", "size"),
    [
        ("last_layer_and_dropout", "pp2"),
        *(full("head_dropout", size) for size in SIZES),
        *(full(recipe, size) for recipe in ("head_alone", "last_layer") for size in SIZES),
        *(full("last_layers", size) for size in ("pp2", "pp2_vpp2", "recompute_full_two", "tp2")),
        *(full("all_layers", size) for size in ("pp2", "recompute_full")),
    ],
)
def test_recipe_gives_the_numbers_of_one_process(
    recipe: str,
    size: str,
    arguments: list[str],
    one_process: dict[str, RunResult],
    workers: Workers,
    tmp_path: Path,
) -> None:
    world_size, flags = SIZES[size]
    argv = [*arguments, *RECIPES[recipe].split(), *flags.split()]
    check_same(run_training(workers, world_size, argv, tmp_path, saves=False), one_process[recipe])


def trained(name: str, num_layers: int) -> bool:
    if name.startswith("decoder.layers."):
        return int(name.split(".")[2]) >= 4 - num_layers
    return name.startswith("rm_head.") or (name.startswith("decoder.") and num_layers > 0)


@pytest.mark.full
@pytest.mark.parametrize(("recipe", "num_layers"), [("head_alone", 0), ("last_layer", 1), ("last_layers", 3)])
def test_frozen_weights_stay_and_the_gradients_of_others_are_those_of_a_whole_run(
    recipe: str,
    num_layers: int,
    arguments: list[str],
    one_process: dict[str, RunResult],
    workers: Workers,
    tmp_path: Path,
) -> None:
    start = run_training(workers, 1, [*arguments, "--lr", "0"], tmp_path, saves=False)
    for name, weight in one_process[recipe].weights.items():
        if name == "rm_head.bias":  # no loss of a pair sees it
            continue
        assert torch.equal(weight, start.weights[name]) != trained(name, num_layers), name
    # The first loss is that of the same weights; the gradient is a part of theirs.
    first, whole = one_process[recipe].steps[0], start.steps[0]
    assert first["loss"] == whole["loss"]
    assert 0 < first["grad_norm"] < whole["grad_norm"]


def state_of_optimizer(argv: list[str]) -> tuple[int, int, int]:
    """Numbers of a process's gradients, of its optimizer's first moments, and of the weights it trains."""
    found: list[tuple[int, int, int]] = []

    def counted(*args: Any, **kwargs: Any) -> Any:
        from modellink_rm.base.megatron_compat import single_optimizers
        from modellink_rm.train.step import train_step

        result = train_step(*args, **kwargs)
        state = args[0]
        buffers = [buffer for chunk in state.model for buffer in chunk.buffers]
        moments = [
            values["exp_avg"].numel()
            for single in single_optimizers(state.optimizer)
            for values in single.optimizer.state.values()
        ]
        parameters = [p.numel() for chunk in state.model for p in chunk.parameters() if p.requires_grad]
        found.append((sum(b.grad_data.numel() for b in buffers), sum(moments), sum(parameters)))
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("modellink_rm.train.trainer.train_step", counted)
        train_part(argv, saves=False)
    return found[-1]


@pytest.mark.full
def test_only_what_is_trained_has_gradients_and_optimizer_state(
    arguments: list[str], workers: Workers
) -> None:
    argv = [*arguments, *RECIPES["last_layer"].split(), *PP2.split(), "--eval-iters", "0"]
    first, last = workers.run(state_of_optimizer, 2, argv)
    assert first == (0, 0, 0)
    gradients, moments, parameters = last
    assert gradients >= moments == parameters > 0


@pytest.mark.full
@pytest.mark.parametrize(
    ("recipe", "size", "more"),
    [
        ("head_dropout", "dp2_distributed", ""),
        ("head_alone", "pp2", ""),
        ("head_alone", "pp2_distributed", ""),
        ("head_alone", "dp2_distributed", "--bf16"),
        ("last_layer", "pp2", ""),
        ("last_layer", "pp2_distributed", "--bf16"),
        ("last_layer", "pp2_vpp2", ""),
        ("last_layer", "tp2", "--use-distributed-optimizer"),
    ],
)
def test_resumed_recipe_equals_an_uninterrupted_one_bitwise(
    recipe: str, size: str, more: str, arguments: list[str], workers: Workers, tmp_path: Path
) -> None:
    world_size, flags = SIZES[size]
    argv = [*arguments, *RECIPES[recipe].split(), *flags.split(), *more.split()]
    whole = run_training(workers, world_size, [*argv, "--save-interval", str(HALF)], tmp_path)
    (tmp_path / "latest_checkpointed_iteration.txt").write_text(f"{HALF}\n")
    resumed = run_training(workers, world_size, [*argv, "--auto-resume"], tmp_path, saves=False)
    assert resumed.column("iteration") == whole.column("iteration")
    assert resumed.column("loss") == whole.column("loss")
    assert resumed.column("grad_norm") == whole.column("grad_norm")
    for name, weight in whole.weights.items():
        assert torch.equal(resumed.weights[name], weight), name


@pytest.mark.full
@pytest.mark.parametrize(
    ("recipe", "writer", "reader"),
    [
        ("head_dropout", "dp2", "tp2"),
        ("last_layer", "pp2", "one_micro_batch"),
        ("last_layer", "recompute_full", "pp2"),
        ("head_alone", "pp2", "tp2"),
        ("last_layer", "pp2_distributed", "dp2_distributed"),
        ("head_alone", "dp2_distributed", "pp2_distributed"),
    ],
)
def test_recipe_is_resumed_at_other_parallel_sizes(
    recipe: str,
    writer: str,
    reader: str,
    arguments: list[str],
    one_process: dict[str, RunResult],
    workers: Workers,
    tmp_path: Path,
) -> None:
    argv = [*arguments, *RECIPES[recipe].split()]
    world_size, flags = SIZES[writer]
    run_training(workers, world_size, [*argv, *flags.split(), "--save-interval", str(HALF)], tmp_path)
    (tmp_path / "latest_checkpointed_iteration.txt").write_text(f"{HALF}\n")
    world_size, flags = SIZES[reader]
    resume = [*argv, *flags.split(), "--auto-resume"]
    resumed = run_training(workers, world_size, resume, tmp_path, saves=False)
    whole = one_process[recipe]
    # Sums in another order: float32 rounding, grown by Adam steps at a large learning rate.
    assert resumed.column("loss") == pytest.approx(whole.column("loss"), abs=2e-5)
    assert resumed.column("grad_norm") == pytest.approx(whole.column("grad_norm"), rel=1e-4)


@pytest.mark.full
def test_wsd_and_cosine_have_the_learning_rates_of_their_formulas(
    arguments: list[str], workers: Workers, tmp_path: Path
) -> None:
    base = "--train-iters 10 --lr 1e-3 --min-lr 1e-4 --lr-warmup-iters 2 --eval-iters 0"
    wsd = f"{base} --lr-decay-style WSD --lr-wsd-decay-style linear --lr-wsd-decay-iters 4"
    rates = learning_rates(wsd, arguments, workers, tmp_path / "wsd")
    decayed = [1e-4 + 9e-4 * (1 - step / 4) for step in (1, 2, 3)]
    assert rates == pytest.approx([0, 5e-4, *[1e-3] * 5, *decayed])
    rates = learning_rates(f"{base} --lr-decay-style cosine", arguments, workers, tmp_path / "cosine")
    expected = [1e-4 + 9e-4 * (math.cos(math.pi * step / 8) + 1) / 2 for step in range(8)]
    assert rates == pytest.approx([0, 5e-4, *expected])


def learning_rates(flags: str, arguments: list[str], workers: Workers, directory: Path) -> list[float]:
    run = run_training(workers, 1, [*arguments, *flags.split()], directory, saves=False)
    return run.column("learning_rate")
