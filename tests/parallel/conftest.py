"""One model and one data set that the runs of this level share."""

from pathlib import Path

import pytest

from tests.distributed import Workers
from tests.runs import RunResult, run_training
from tests.tiny_data import write_random_rows, write_tokenizer
from tests.tiny_models import write_tiny_llama

GLOBAL_BATCH_SIZE = 6
NUM_STEPS = 4


@pytest.fixture(scope="session")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Flags of a short run from one set of weights, without --save."""
    directory = tmp_path_factory.mktemp("parallel")
    write_tiny_llama(directory / "model", value_head=True)
    write_tokenizer(directory / "model")
    write_random_rows(directory / "data" / "pairs", 40)
    flags = (
        f"--stage rm --is-pairwise-dataset --load {directory}/model --load-checkpoint-loosely "
        f"--data-path {directory}/data/pairs --split 30,10,0 --seq-length 48 --lr 1e-3 "
        f"--max-tokens-per-micro-batch 100 --global-batch-size {GLOBAL_BATCH_SIZE} --train-iters {NUM_STEPS} "
        "--eval-interval 2 --eval-iters 1 --make-vocab-size-divisible-by 1"
    )
    return flags.split()


@pytest.fixture(scope="session")
def single(arguments: list[str], workers: Workers, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    """The run in one process, what all the others are compared with."""
    return run_training(workers, 1, arguments, Path(tmp_path_factory.mktemp("single")), saves=False)
