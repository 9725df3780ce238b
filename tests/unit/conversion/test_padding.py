"""The padding token is one that no rendered response ends with."""

from typing import Any

import pytest

from modellink_rm.config.tokenizer import TokenizerConfig
from modellink_rm.conversion.padding import PadToken, choose_pad_token
from modellink_rm.tokenizers.load import load_tokenizer
from modellink_rm.tokenizers.tokenizer import Tokenizer
from tests.tiny_data import write_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    directory = write_tokenizer(tmp_path_factory.mktemp("tokenizer"))  # <unk> 0, <s> 1, </s> 2
    return load_tokenizer(TokenizerConfig(tokenizer_name_or_path=str(directory)))


def choose(tokenizer: Tokenizer, **options: Any) -> PadToken:
    values: dict[str, Any] = {"declared": None, "config": {}, "used_ids": (), "num_rows": 320}
    return choose_pad_token(tokenizer, **{**values, **options})


def test_declared_token_is_kept(tokenizer: Tokenizer) -> None:
    assert choose(tokenizer, declared="<unk>") == PadToken(token="<unk>", index=0, is_new=False)


def test_token_of_the_config_is_kept(tokenizer: Tokenizer) -> None:
    assert choose(tokenizer, config={"pad_token_id": 0}).index == 0


@pytest.mark.parametrize("options", [{}, {"declared": "</s>"}, {"config": {"pad_token_id": 2}}])
def test_eos_is_never_taken_though_it_is_declared(tokenizer: Tokenizer, options: dict[str, Any]) -> None:
    pad = choose(tokenizer, **options)
    assert pad == PadToken(token="<|pad|>", index=tokenizer.vocab_size, is_new=True, added_rows=0)


def test_token_that_ends_a_response_is_not_taken(tokenizer: Tokenizer) -> None:
    assert choose(tokenizer, declared="<unk>", used_ids={0}).is_new


def test_full_embedding_gets_a_row(tokenizer: Tokenizer) -> None:
    pad = choose(tokenizer, num_rows=tokenizer.vocab_size)
    assert (pad.index, pad.added_rows) == (tokenizer.vocab_size, 1)
