"""Processes that were started with other flags, or read other files, are refused by all of them."""

import os
from pathlib import Path
from typing import Any

import pytest

from tests.distributed import Workers
from tests.tiny_data import write_random_rows, write_tokenizer
from tests.tiny_models import write_tiny_llama

CHECKPOINT = Path(__file__).parents[1] / "fixtures" / "checkpoint_v1" / "iter_0000002"


def trained(flags: list[str]) -> str:
    """What a rank says that is started with the flags of its place."""
    from modellink_rm.base.errors import AgreedError
    from modellink_rm.commands.train import run_config
    from modellink_rm.train.run import run

    try:
        run(run_config(flags[int(os.environ["RANK"])].split()))
    except AgreedError as error:
        return str(error)
    return ""


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and two data sets of other rows at places of the same form, as on two machines."""
    made = tmp_path_factory.mktemp("machines")
    write_tiny_llama(made / "model", num_hidden_layers=1)
    write_tokenizer(made / "model")
    for number in range(2):
        write_random_rows(made / str(number) / "rows", 8, seed=number)
    return made


@pytest.mark.parametrize(
    ("places", "flags", "message"),
    [
        ((0, 0), ("--lr 1e-3", "--lr 1e-4"), "the same --lr: 0.001 in rank 0, 0.0001 in rank 1; start"),
        ((0, 1), ("", ""), "the same data of --data-path: [{"),
        ((0, 0), ("--context-parallel-size 2", ""), "the same --context-parallel-size: 2 in rank 0, 1 in"),
    ],
)
def test_runs_of_other_flags_or_data_do_not_begin(
    places: tuple[int, int], flags: tuple[str, str], message: str, directory: Path, workers: Workers
) -> None:
    words = [
        f"--stage rm --is-pairwise-dataset --load {directory}/model --load-checkpoint-loosely "
        f"--train-iters 1 --data-path {directory}/{place}/rows --seq-length 64 --global-batch-size 2 "
        f"--prompt-type llama2 {more}"
        for place, more in zip(places, flags, strict=True)
    ]
    said = workers.run(trained, 2, words)
    assert said[0] == said[1]
    assert message in said[0]


def scored(records: list[list[dict[str, Any]]]) -> str:
    """What a rank says that is given the records of its place."""
    from modellink_rm.base.errors import AgreedError
    from modellink_rm.inference.scorer import Scorer

    with Scorer.open(CHECKPOINT) as scorer:
        try:
            return str(len(scorer.score(records[int(os.environ["RANK"])])))
        except AgreedError as error:
            return str(error)


def test_scores_are_of_records_that_every_process_has(workers: Workers) -> None:
    """A machine with an older copy of --input would score other records in the places of these."""
    records = [[{"prompt": "the cat", "response": answer}] * 3 for answer in ("sings", "runs")]
    assert workers.run(scored, 2, [records[0], records[0]]) == ["3", "3"]
    (said, other) = workers.run(scored, 2, records)
    assert said == other
    assert said.startswith("the processes do not have the same records: ")
