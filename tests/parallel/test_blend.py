"""A run over two data sets reads the rows of both."""

import collections
import operator
from pathlib import Path

import pytest

from modellink_rm.dataset.dataset import Dataset
from modellink_rm.dataset.example import Example, RowName
from modellink_rm.dataset.reader import ExampleReader
from tests.distributed import Workers
from tests.marks import full
from tests.runs import run_training, train_part
from tests.tiny_data import write_random_rows

# One epoch: 15 rows of the large data set and 5 of the small one.
FLAGS = "--split 5,1,0 --global-batch-size 5 --train-iters 4 --num-workers 0"


@pytest.fixture
def two(arguments: list[str], tmp_path: Path) -> list[str]:
    prefixes = [write_random_rows(tmp_path / name, rows) for name, rows in (("large", 18), ("small", 6))]
    return [*arguments, "--data-path", *map(str, prefixes), *FLAGS.split()]


def rows_read(arguments: list[str]) -> list[RowName]:
    """What a run reads, in order."""
    names: list[RowName] = []
    read = ExampleReader.read

    def noted(self: ExampleReader, dataset: Dataset, row: int) -> Example:
        names.append(RowName(dataset.prefix.name, row))
        return read(self, dataset, row)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ExampleReader, "read", noted)
        train_part(arguments)
    return names


def test_an_epoch_trains_on_each_row_once_and_validates_rows_of_both(
    two: list[str], workers: Workers
) -> None:
    (names,) = workers.run(rows_read, 1, two)
    trained = [("large", row) for row in range(15)] + [("small", row) for row in range(5)]
    validated = [("large", 15), ("large", 16), ("large", 17), ("small", 5)]
    # Evaluations before the first step, after two and after four.
    assert collections.Counter(names) == collections.Counter([*trained, *3 * validated])


@pytest.mark.parametrize("is_weighted", [True, full(False)])
def test_two_replicas_equal_one_process(
    is_weighted: bool, two: list[str], workers: Workers, tmp_path: Path
) -> None:
    if is_weighted:
        two = [*two, "--data-path", "3", str(tmp_path / "large"), "2", str(tmp_path / "small")]
    one = run_training(workers, 1, two, tmp_path / "one", saves=False)
    both = run_training(workers, 2, two, tmp_path / "both", saves=False)
    # Sums in another order: float32 rounding. (Scores may drift together: no loss sees the head's bias.)
    assert both.column("loss") == pytest.approx(one.column("loss"), abs=1e-5)
    evaluations = [[row for row in run.rows if "valid/loss" in row] for run in (one, both)]
    assert [row["valid/examples"] for row in evaluations[0]] == [4, 4, 4]
    for ours, theirs in zip(*evaluations, strict=True):
        for name in ("examples", "accuracy", "loss", "large/loss", "small/accuracy", "small/examples"):
            assert ours[f"valid/{name}"] == pytest.approx(theirs[f"valid/{name}"], abs=1e-5)
    for ours, theirs in zip(both.steps, one.steps, strict=True):
        numbers = [theirs[f"train/{name}/examples"] for name in ("large", "small")]
        assert sum(numbers) == 5
        assert not is_weighted or numbers == [3, 2]
        for name in ("large", "small"):
            assert ours[f"train/{name}/loss"] == pytest.approx(theirs[f"train/{name}/loss"], abs=1e-5)
            assert ours[f"train/{name}/accuracy"] == theirs[f"train/{name}/accuracy"]
        # What is trained on is the mean over the examples, whatever data set they are of.
        losses = [theirs[f"train/{name}/loss"] for name in ("large", "small")]
        assert theirs["loss"] == pytest.approx(sum(map(operator.mul, losses, numbers)) / 5)


@pytest.mark.full
def test_resumed_mixture_reads_on_where_it_was_left_at_any_parallel_size(
    two: list[str], workers: Workers, tmp_path: Path
) -> None:
    weights = ["--data-path", "3", str(tmp_path / "large"), "1", str(tmp_path / "small")]
    argv = [*two, *weights, "--train-iters", "6", "--save-interval", "3"]
    whole = run_training(workers, 1, argv, tmp_path / "run")
    columns = ("loss", "train/large/loss", "train/small/accuracy", "train/large/examples")
    assert sum(row["train/large/examples"] for row in whole.steps) in (22, 23)  # of 30, three quarters
    for world_size, tolerance in ((1, 0.0), (2, 1e-5)):
        (tmp_path / "run" / "latest_checkpointed_iteration.txt").write_text("3\n")
        resumed = run_training(workers, world_size, [*argv, "--auto-resume"], tmp_path / "run", saves=False)
        for name in columns:
            expected = [row.get(name) for row in whole.steps]
            assert [row.get(name) for row in resumed.steps] == pytest.approx(expected, abs=tolerance)
