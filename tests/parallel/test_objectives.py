"""Every objective gives several processes the numbers of one, on rankings with ties and margins."""

import functools
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.distributed import Workers
from tests.marks import full
from tests.parallel.comparison import check_same
from tests.runs import RunResult, run_training
from tests.tiny_data import write_random_rows

TERMS = "--centering-weight 0.01 --score-l2-weight 0.01 --range-penalty-weight 0.02 --score-range -3 3"
OBJECTIVES = {
    "kwise": "--loss-type kwise --margin-weight 0.5 --tie-threshold 0.3 --label-smoothing 0.1",
    "focal": f"--loss-type focal --focal-gamma 1.5 {TERMS}",
    "listwise": "--loss-type listwise",
    "scaled": "--loss-type scaled",
    "length": "--loss-type sigmoid --length-penalty-weight 0.8",
}
LAYOUTS = {
    "one_example_a_micro_batch": (1, "--max-tokens-per-micro-batch 1 --no-prefix-sharing"),
    "tp2_sp": (2, "--tensor-model-parallel-size 2 --sequence-parallel"),
    "pp2": (2, "--pipeline-model-parallel-size 2"),
    "cp2": (2, "--context-parallel-size 2"),
    "dp2": (2, "--use-distributed-optimizer"),
    "dp2_pp2": (4, "--pipeline-model-parallel-size 2 --max-tokens-per-micro-batch 60"),
}

# The moments of a length penalty are added up over replicas.
QUICK = {("kwise", "dp2_pp2"), ("length", "dp2")}


@pytest.fixture(scope="module")
def rankings(arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The flags of the shared run, with prompts that have 2 to 5 responses."""
    prefix = write_random_rows(tmp_path_factory.mktemp("rankings") / "k", 40, most_responses=5)
    return [*arguments, "--data-path", str(prefix)]


@pytest.fixture(scope="module")
def one_process(
    rankings: list[str], workers: Workers, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], RunResult]:
    """The run of an objective in one process."""

    @functools.cache
    def run(objective: str) -> RunResult:
        words = [*rankings, *OBJECTIVES[objective].split()]
        return run_training(workers, 1, words, tmp_path_factory.mktemp(objective), saves=False)

    return run


@pytest.mark.parametrize(
    ("objective", "layout"),
    [
        (objective, layout) if (objective, layout) in QUICK else full(objective, layout)
        for objective in OBJECTIVES
        for layout in LAYOUTS
    ],
)
def test_objective_matches_one_process(
    objective: str,
    layout: str,
    rankings: list[str],
    one_process: Callable[[str], RunResult],
    workers: Workers,
    tmp_path: Path,
) -> None:
    world_size, flags = LAYOUTS[layout]
    words = [*rankings, *OBJECTIVES[objective].split(), *flags.split()]
    run = run_training(workers, world_size, words, tmp_path, saves=False)
    check_same(run, one_process(objective))
    assert "prompts_per_second" in run.steps[0]
