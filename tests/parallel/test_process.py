"""Process rewards give several processes the numbers of one, on hard, soft and missing labels."""

from pathlib import Path

import pytest

from modellink_rm.base.errors import UserError
from modellink_rm.commands.train import run_config
from modellink_rm.train.plan import plan_run
from tests.distributed import Workers
from tests.marks import full
from tests.parallel.comparison import check_same
from tests.runs import RunResult, run_training
from tests.tiny_data import write_random_steps, write_tokenizer
from tests.tiny_models import write_tiny_llama

LAYOUTS = {
    "one_example_a_micro_batch": (1, "--max-tokens-per-micro-batch 1 --no-prefix-sharing"),
    "tp2_sp": (2, "--tensor-model-parallel-size 2 --sequence-parallel"),
    "pp2": (2, "--pipeline-model-parallel-size 2"),
    "pp2_interleaved": (2, "--pipeline-model-parallel-size 2 --num-layers-per-virtual-pipeline-stage 1"),
    "cp2": (2, "--context-parallel-size 2"),
    "dp2": (2, "--use-distributed-optimizer"),
    "dp2_cp2": (4, "--context-parallel-size 2 --max-tokens-per-micro-batch 60"),
    "dp2_pp2": (4, "--pipeline-model-parallel-size 2 --max-tokens-per-micro-batch 60"),
}
METRICS = ("valid/loss", "valid/accuracy", "valid/probability", "valid/steps")


@pytest.fixture(scope="module")
def of_steps(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The flags of the run that all layouts take."""
    directory = tmp_path_factory.mktemp("steps")
    write_tiny_llama(directory / "model")
    write_tokenizer(directory / "model")
    write_random_steps(directory / "data" / "steps", 40)
    flags = (
        f"--stage prm --load {directory}/model --load-checkpoint-loosely --data-path {directory}/data/steps "
        "--split 30,10,0 --seq-length 44 --lr 1e-3 --max-tokens-per-micro-batch 100 --global-batch-size 6 "
        "--train-iters 4 --eval-interval 2 --eval-iters 1 --make-vocab-size-divisible-by 1"
    )
    return flags.split()


@pytest.fixture(scope="module")
def one_process(of_steps: list[str], workers: Workers, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return run_training(workers, 1, of_steps, tmp_path_factory.mktemp("one"), saves=False)


@pytest.mark.parametrize("layout", [name if name == "cp2" else full(name) for name in LAYOUTS])
def test_process_rewards_match_one_process(
    layout: str, of_steps: list[str], one_process: RunResult, workers: Workers, tmp_path: Path
) -> None:
    world_size, flags = LAYOUTS[layout]
    run = run_training(workers, world_size, [*of_steps, *flags.split()], tmp_path, saves=False)
    check_same(run, one_process, metrics=METRICS)
    assert "responses_per_second" in run.steps[0]


def test_best_checkpoint_needs_a_metric_of_the_stage(of_steps: list[str], tmp_path: Path) -> None:
    words = [*of_steps, "--save", str(tmp_path / "save"), "--save-best"]
    with pytest.raises(UserError, match=r"of --stage prm have no margin; give accuracy or loss$"):
        plan_run(run_config([*words, "margin"]), world_size=1)
    assert plan_run(run_config([*words, "accuracy"]), world_size=1).best_metric == "valid/accuracy"
