"""Special tokens as the small files beside a vocabulary declare them; odd values are one line."""

import json
from pathlib import Path
from typing import Any

import pytest

from modellink_rm.base.errors import UserError
from modellink_rm.tokenizers.fast_tokenizer import load_fast_tokenizer
from modellink_rm.tokenizers.settings_files import read_tokenizer_settings


def test_a_vocabulary_at_which_the_library_panics_is_one_line(tmp_path: Path) -> None:
    model = {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]}
    model |= {"continuing_subword_prefix": "longer than a token"}
    (tmp_path / "tokenizer.json").write_text(
        json.dumps({"version": "1.0", "added_tokens": [], "model": model})
    )
    with pytest.raises(UserError, match="cannot be read as a tokenizer: range end index"):
        load_fast_tokenizer(tmp_path / "tokenizer.json")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("added_tokens.json", {"<s>": "one"}),
        ("added_tokens.json", {"<s>": None}),
        ("added_tokens.json", {"\ud800": 1}),
        ("tokenizer_config.json", {"added_tokens_decoder": [1]}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"one": "<s>"}}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"1": "\ud800"}}),
        ("tokenizer_config.json", {"additional_special_tokens": 3}),
        ("tokenizer_config.json", {"bos_token": {"content": "\udfff"}}),
        ("special_tokens_map.json", {"eos_token": "\ud800"}),
    ],
)
def test_a_value_that_cannot_be_is_one_line(name: str, content: Any, tmp_path: Path) -> None:
    (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(UserError) as refused:
        read_tokenizer_settings(tmp_path)
    assert f"{name} has a value that it cannot have" in str(refused.value)
    assert "\n" not in str(refused.value)
