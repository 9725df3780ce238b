"""Data sets that are read together: their parts, their rows, and what is refused."""

import collections
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from modellink_rm.base.errors import UserError, run_command
from modellink_rm.commands.preprocess import main as preprocess_main
from modellink_rm.config.data import DataConfig
from modellink_rm.dataset.blend import Blend, blend_datasets
from modellink_rm.dataset.dataset import open_dataset
from modellink_rm.dataset.order import order_of
from modellink_rm.dataset.reader import ExampleReader
from tests.tiny_data import write_random_rows

READER = ExampleReader(seq_length=64, truncation="right", num_closing_tokens=1, num_ids=320)


def blend_of(prefixes: list[Path], split: str = "90,10,0", **flags: Any) -> Blend:
    config = DataConfig(data_path=tuple(map(str, prefixes)), split=split, **flags)
    return blend_datasets([open_dataset(prefix) for prefix in prefixes], config, READER)


@pytest.fixture(scope="module")
def prefixes(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    directory = tmp_path_factory.mktemp("blend")
    return [
        write_random_rows(directory / "large", 900, seed=1),
        write_random_rows(directory / "small", 100, seed=2),
    ]


def test_each_data_set_is_divided_by_itself(prefixes: list[Path]) -> None:
    blend = blend_of(prefixes, "80,10,10")
    parts = {"train": blend.train, "valid": blend.valid, "test": blend.test}
    rows = {name: [one.rows for one in part.datasets] for name, part in parts.items()}
    assert rows == {
        "train": [range(720), range(80)],
        "valid": [range(720, 810), range(80, 90)],
        "test": [range(810, 900), range(90, 100)],
    }


def test_an_epoch_takes_every_row_of_each_data_set_once_mixed_in_proportion(prefixes: list[Path]) -> None:
    blend = blend_of(prefixes)
    train, order = blend.train, order_of(blend.mixture, shuffle=True, seed=1)
    large, small = map(str, prefixes)
    names = [train[place].name for place in order.samples(0, len(train))]
    assert sorted(names) == [(large, row) for row in range(810)] + [(small, row) for row in range(90)]
    for start in range(0, len(names), 300):
        count = collections.Counter(name.dataset for name in names[start : start + 300])
        assert count[small] == 30


def test_max_samples_keeps_the_first_training_rows_and_all_of_validation(prefixes: list[Path]) -> None:
    blend = blend_of(prefixes, max_samples=(50,))
    assert [one.rows for one in blend.train.datasets] == [range(50), range(50)]
    assert [len(one.rows) for one in blend.valid.datasets] == [90, 10]
    assert blend.mixture.shares() == (0.5, 0.5)
    each = blend_of(prefixes, max_samples=(10, 1000))
    assert each.mixture.sizes == (10, 90)


def test_evaluation_of_a_few_examples_takes_rows_of_each_data_set(prefixes: list[Path]) -> None:
    valid = blend_of(prefixes).valid
    names = [valid.first(20)[place].name for place in range(20)]
    large, small = map(str, prefixes)
    assert names == [*((large, row) for row in range(810, 828)), (small, 90), (small, 91)]
    assert len(valid.first(20)) == 20
    assert len(valid.first(1000)) == len(valid) == 100
    assert len(valid.first(0)) == 0


@pytest.mark.parametrize("num_examples", [1, 7, 89, 90, 91])
def test_evaluation_of_one_data_set_takes_its_first_rows(num_examples: int, prefixes: list[Path]) -> None:
    valid = blend_of(prefixes[:1]).valid
    assert valid.first(num_examples).datasets[0].rows == range(810, 900)[:num_examples]


def test_places_count_over_the_data_sets_in_their_order(prefixes: list[Path]) -> None:
    train = blend_of(prefixes).train
    assert train[809].name == (str(prefixes[0]), 809)
    assert train[810].name == (str(prefixes[1]), 0)
    for outside in (-1, len(train)):
        with pytest.raises(IndexError):
            train[outside]


@pytest.mark.parametrize("other", ["pairs", "../x/pairs", "linked"])
def test_data_set_given_twice_is_refused(other: str, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    prefix = write_random_rows(tmp_path / "x" / "pairs", 10)
    for path in prefix.parent.glob("pairs_*"):
        path.with_name(path.name.replace("pairs", "linked", 1)).symlink_to(path)
    with pytest.raises(UserError, match=r"pairs and .* hold the same rows.*give each data set once"):
        blend_of([prefix, prefix.parent / other])


def test_copy_of_a_data_set_is_refused_by_the_checksums_of_its_ids(
    tmp_path: Path, sentencepiece_path: Path
) -> None:
    for name, answers in (("one", "good"), ("other", "fine")):
        records = [{"instruction": f"q{i}", "chosen": answers, "rejected": "bad"} for i in range(9)]
        (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, records)))
        words = f"--input {tmp_path}/in.jsonl --handler-name AlpacaStylePairwiseHandler --prompt-type llama2"
        words += f" --tokenizer-model {sentencepiece_path} --output-prefix {tmp_path}/{name}"
        assert run_command(preprocess_main, words.split()) == 0
    for path in tmp_path.glob("one_*"):
        shutil.copy(path, tmp_path / path.name.replace("one", "copy", 1))
    # The rejected ids of both are the same, the chosen ones are not.
    assert len(blend_of([tmp_path / "one", tmp_path / "other"]).train) == 16
    with pytest.raises(UserError, match=r"one and .*copy hold the same rows"):
        blend_of([tmp_path / "one", tmp_path / "other", tmp_path / "copy"])


def test_data_set_without_a_row_to_train_on_is_named(prefixes: list[Path], tmp_path: Path) -> None:
    few = write_random_rows(tmp_path / "few", 1, seed=5)
    with pytest.raises(UserError, match=r"--split 40,60 leaves none of the 1 rows of .*few to train on"):
        blend_of([*prefixes, few], "40,60")
