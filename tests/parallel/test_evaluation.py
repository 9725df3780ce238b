"""Evaluations of a run."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.distributed import Workers
from tests.parallel.conftest import GLOBAL_BATCH_SIZE
from tests.runs import run_training, train_part
from tests.tiny_data import write_random_rows, write_tokenizer
from tests.tiny_models import write_tiny_llama


def test_an_evaluation_draws_no_dropout_and_the_steps_after_it_do(workers: Workers, tmp_path: Path) -> None:
    write_tiny_llama(tmp_path / "model", value_head=True)
    write_tokenizer(tmp_path / "tokenizer")
    prefix = write_random_rows(tmp_path / "pairs", 12)
    # At a learning rate of 0 only dropout could make one evaluation differ from another.
    arguments = (
        f"--stage rm --is-pairwise-dataset --load {tmp_path}/model --load-checkpoint-loosely --lr 0 "
        f"--tokenizer-name-or-path {tmp_path}/tokenizer --data-path {prefix} --split 1,2,0 --seq-length 40 "
        "--global-batch-size 4 --train-iters 3 --eval-interval 1 --no-shuffle"
    )
    without = run_training(workers, 1, arguments.split(), tmp_path / "without", saves=False)
    dropped = run_training(
        workers, 1, f"{arguments} --hidden-dropout 0.3".split(), tmp_path / "dropout", saves=False
    )
    evaluations = [row["valid/loss"] for row in dropped.rows if "valid/loss" in row]
    assert len(evaluations) == 1 + 3
    assert evaluations == [row["valid/loss"] for row in without.rows if "valid/loss" in row]
    # The four rows of a step are the training part, so without dropout every step has one loss.
    assert len(set(without.column("loss"))) == 1
    assert len(set(dropped.column("loss"))) == 3


def train_with_evaluations_of_an_hour(argv: list[str]) -> None:
    """A run whose clock goes on by an hour in every evaluation."""
    from modellink_rm.train import evaluations
    from modellink_rm.train.evaluate import evaluate

    clock = time.perf_counter
    hours = [0]

    def slow_evaluate(*args: Any, **kwargs: Any) -> Any:
        hours[0] += 1
        return evaluate(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluations, "evaluate", slow_evaluate)
        patch.setattr(time, "perf_counter", lambda: clock() + 3600 * hours[0])
        train_part(argv, saves=False)
    # Before the first step, after each of four, and a sample of the training part at both ends.
    assert hours[0] == 1 + 4 + 2


def test_the_time_of_an_evaluation_is_none_of_the_steps(
    arguments: list[str], workers: Workers, tmp_path: Path
) -> None:
    # A log line for two steps, with an evaluation after each of them.
    flags = f"--eval-interval 1 --log-interval 2 --save {tmp_path}"
    workers.run(train_with_evaluations_of_an_hour, 1, [*arguments, *flags.split()])
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    speeds = [row["pairs_per_second"] for row in rows if "pairs_per_second" in row]
    assert len(speeds) == 2
    assert min(speeds) > 10 * 2 * GLOBAL_BATCH_SIZE / 3600
