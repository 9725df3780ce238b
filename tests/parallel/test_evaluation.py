"""Evaluations of a run."""

from pathlib import Path

from tests.distributed import Workers
from tests.runs import run_training
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
    assert len(evaluations) == 3
    assert evaluations == [row["valid/loss"] for row in without.rows if "valid/loss" in row]
    # The four rows of a step are the training part, so without dropout every step has one loss.
    assert len(set(without.column("loss"))) == 1
    assert len(set(dropped.column("loss"))) == 3
