"""The tokenizer's flags, completed by what is loaded."""

import dataclasses
from pathlib import Path

import pytest

from modellink_rm.checkpoint.contract import CONTRACT_NAME, InferenceContract
from modellink_rm.checkpoint.layout import CheckpointInfo, read_checkpoint_info
from modellink_rm.checkpoint.source import ModelSource, tokenizer_of
from modellink_rm.config.tokenizer import TokenizerConfig

CHECKPOINT = Path(__file__).parents[2] / "fixtures" / "checkpoint_v1" / "iter_0000002"


def checkpoint(directory: Path, *, not_use_fast: bool) -> CheckpointInfo:
    """A checkpoint with such a contract."""
    contract = InferenceContract(
        prompt_type="llama2",
        template_fingerprint="a",
        eos_rule=None,
        tokenizer_fingerprint="b",
        tokenizer_not_use_fast=not_use_fast,
        seq_length=256,
        truncation="right",
    )
    (directory / CONTRACT_NAME).write_bytes(contract.to_json())
    return dataclasses.replace(read_checkpoint_info(CHECKPOINT), path=directory)


@pytest.mark.parametrize(
    ("given", "in_contract", "expected"),
    [(False, False, False), (True, False, True), (False, True, True), (True, True, True)],
)
def test_flags_hold_for_the_tokenizer_of_a_checkpoint(
    given: bool, in_contract: bool, expected: bool, tmp_path: Path
) -> None:
    source = ModelSource(checkpoint=checkpoint(tmp_path, not_use_fast=in_contract))
    config = TokenizerConfig(trust_remote_code=given, tokenizer_not_use_fast=given)
    found = tokenizer_of(config, source)
    assert found.tokenizer_name_or_path == str(tmp_path / "tokenizer")
    assert found.trust_remote_code == given
    assert found.tokenizer_not_use_fast == expected
