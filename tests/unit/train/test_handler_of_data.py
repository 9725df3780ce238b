"""The handler that a checkpoint names: the one that all of its data was read by."""

import json
from pathlib import Path

import pytest

from modellink_rm.config.preprocess import PreprocessConfig
from modellink_rm.config.tokenizer import TokenizerConfig
from modellink_rm.dataset.dataset import open_dataset
from modellink_rm.preprocess.run import preprocess_data
from modellink_rm.train.plan_data import handler_of
from tests.tiny_data import write_random_rows, write_tokenizer

ALPACA = "AlpacaStylePairwiseHandler"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data of one handler, of the same with equal, other and no keys, and of another tool."""
    directory = tmp_path_factory.mktemp("handlers")
    tokenizer = TokenizerConfig(tokenizer_name_or_path=str(write_tokenizer(directory / "tokenizer")))
    record = {"instruction": "the cat", "q": "the dog", "chosen": "sings", "rejected": "sleeps"}
    (directory / "in.json").write_text(json.dumps([record]))
    for name, map_keys in (
        ("plain", None),
        ("keys", '{"prompt": "q", "query": ""}'),
        ("same_keys", '{"query":"","prompt":"q"}'),
    ):
        config = PreprocessConfig(
            input=(str(directory / "in.json"),),
            output_prefix=str(directory / name),
            handler_name=ALPACA,
            prompt_type="llama2",
            map_keys=map_keys,
        )
        preprocess_data(config, tokenizer)
    write_random_rows(directory / "foreign", 2)
    return directory


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["plain"], (ALPACA, None)),
        (["plain", "plain"], (ALPACA, None)),
        (["keys", "same_keys"], (ALPACA, '{"query":"","prompt":"q"}')),
        (["plain", "keys"], (None, None)),
        (["plain", "foreign"], (None, None)),
        (["foreign"], (None, None)),
    ],
)
def test_data_sets_that_agree_name_their_handler(
    names: list[str], expected: tuple[str | None, str | None], directory: Path
) -> None:
    datasets = [open_dataset(directory / name) for name in names]
    assert handler_of(datasets) == expected
