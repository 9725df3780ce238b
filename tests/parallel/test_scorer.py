"""The Scorer as Python calls it: alone, and under torchrun."""

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from tests.distributed import Workers
from tests.tiny_data import write_tokenizer
from tests.tiny_models import write_tiny_llama

RECORDS: list[dict[str, Any]] = [
    {"prompt": "the cat", "response": "sings"},
    {"prompt": "the cat", "responses": ["sings", "the moon falls", "sleeps"]},
    {"prompt": [{"role": "user", "content": "a dog"}], "chosen": "runs", "rejected": "the tree shines"},
]


def scores_of(model: str, records: list[dict[str, Any]], options: dict[str, Any]) -> list[Any]:
    from modellink_rm import Scorer

    with Scorer.open(model, prompt_type="llama2", load_checkpoint_loosely=True, **options) as scorer:
        return scorer.score(records)


def failures(model: str) -> list[str]:
    """What a Scorer says that is used wrongly, one after the other in one process."""
    from modellink_rm import Scorer

    told = []

    def refused(call: Any, *arguments: Any, **options: Any) -> None:
        try:
            call(*arguments, **options)
        except ValueError as error:
            told.append(str(error))

    refused(Scorer.open, model, prompt_typ="llama2")
    refused(Scorer.open, model, prompt_type="llama2", load_checkpoint_loosely=True, truncation="left")
    refused(Scorer.open, model, prompt_type="llama2", load_checkpoint_loosely=True, seq_length=10**6)
    scorer = Scorer.open(model, prompt_type="llama2", load_checkpoint_loosely=True)
    refused(Scorer.open, model, prompt_type="llama2", load_checkpoint_loosely=True)
    refused(scorer.score, [RECORDS[0], {"prompt": "q", "response": 3}])
    assert scorer.score([]) == []
    scorer.close()
    scorer.close()
    refused(scorer.score, RECORDS)
    return told


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory: Path = tmp_path_factory.mktemp("scorer")
    write_tiny_llama(directory, value_head=True)
    write_tokenizer(directory)
    return str(directory)


@pytest.mark.parametrize(
    "options",
    [{"tensor_model_parallel_size": 2}, {"pipeline_model_parallel_size": 2}, {}],
    ids=["tp2", "pp2", "dp2"],
)
def test_two_processes_score_as_one(workers: Workers, model: str, options: dict[str, Any]) -> None:
    (expected,) = workers.run(scores_of, 1, model, RECORDS, {})
    one, several, pair = expected
    assert isinstance(one, float)
    assert (len(several), len(pair)) == (3, 2)
    assert several[0] == pytest.approx(one, abs=1e-6)
    for found in workers.run(scores_of, 2, model, RECORDS, options):
        assert found[0] == pytest.approx(one, abs=1e-5)
        assert found[1] == pytest.approx(several, abs=1e-5)
        assert found[2] == pytest.approx(pair, abs=1e-5)


def test_keys_of_a_handler_may_be_a_dict(workers: Workers, model: str) -> None:
    options = {"handler_name": "AlpacaStylePairwiseHandler", "map_keys": {"prompt": "question"}}
    record = {"question": "a dog", "chosen": "runs", "rejected": "the tree shines"}
    (found,) = workers.run(scores_of, 1, model, [record], options)
    (expected,) = workers.run(scores_of, 1, model, RECORDS[2:], {})
    assert found[0] == pytest.approx(expected[0], abs=1e-6)


def test_wrong_use_is_one_line(workers: Workers, model: str) -> None:
    (told,) = workers.run(failures, 1, model)
    expected = [
        "unknown option 'prompt_typ'; did you mean prompt_type?",
        "unknown --truncation 'left'",
        "--seq-length 1000000 is above the model's --max-position-embeddings",
        "torch.distributed runs in this process already, as of a Scorer that is open: close it first",
        "records[1]: field 'response' must be a text or a list of messages",
        "the Scorer is closed",
    ]
    assert [line[: len(begin)] for line, begin in zip(told, expected, strict=True)] == expected


def refusal_of_nan(model: str) -> str:
    from modellink_rm import Scorer

    with Scorer.open(model, prompt_type="llama2", load_checkpoint_loosely=True) as scorer:
        try:
            scorer.score(RECORDS)
        except ValueError as error:
            return str(error)
    return "scored"


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_score_that_is_not_finite_is_an_error_on_every_rank(
    world_size: int, tmp_path: Path, workers: Workers
) -> None:
    write_tiny_llama(tmp_path, value_head=True)
    write_tokenizer(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["model.norm.weight"][:] = 3e38  # finite, as weights must be
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    told = workers.run(refusal_of_nan, world_size, str(tmp_path))
    assert told == ["records[0]: a score is not finite"] * world_size
