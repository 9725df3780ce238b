"""inference_contract.json: what a checkpoint says of how its scores are computed."""

import dataclasses
import json
import logging
import shutil
from pathlib import Path

import pytest

from modellink_rm.base.checksums import sealed_json, unsealed
from modellink_rm.base.errors import UserError
from modellink_rm.checkpoint.contract import (
    CONTRACT_NAME,
    InferenceContract,
    contract_files,
    contract_tokenizer,
    read_contract,
    write_normalization,
)
from modellink_rm.checkpoint.files import CHECKSUMS_FILE, FILES_NAME, describe_files, files_json
from modellink_rm.checkpoint.layout import read_checkpoint_info
from modellink_rm.checkpoint.source import ModelSource
from modellink_rm.config.tokenizer import TokenizerConfig
from modellink_rm.metrics.normalization import Normalization
from modellink_rm.tokenizers.load import load_tokenizer

OLD_CHECKPOINT = Path(__file__).parents[2] / "fixtures" / "checkpoint_v1" / "iter_0000002"
CONTRACT = InferenceContract(
    prompt_type="llama2",
    template_fingerprint="a",
    eos_rule="the tokenizer's EOS after every answer",
    tokenizer_fingerprint="b",
    tokenizer_not_use_fast=False,
    seq_length=256,
    truncation="right",
    handler="AlpacaStylePairwiseHandler",
    map_keys='{"prompt": "question"}',
)


def test_the_contract_of_a_source_is_read_once(tmp_path: Path) -> None:
    (tmp_path / CONTRACT_NAME).write_bytes(CONTRACT.to_json())
    source = ModelSource(checkpoint=dataclasses.replace(read_checkpoint_info(OLD_CHECKPOINT), path=tmp_path))
    assert source.contract == CONTRACT
    (tmp_path / CONTRACT_NAME).unlink()
    assert source.contract == CONTRACT
    assert ModelSource().contract is None


def test_a_contract_is_read_as_it_was_written(tmp_path: Path) -> None:
    (tmp_path / CONTRACT_NAME).write_bytes(CONTRACT.to_json())
    assert read_contract(tmp_path) == CONTRACT


def test_a_contract_beside_an_exports_checksums_is_the_one_that_was_written(tmp_path: Path) -> None:
    """A flipped bit in a text of its template, or in its length, gave other scores without a word."""
    path = tmp_path / CONTRACT_NAME
    path.write_bytes(CONTRACT.to_json())
    (tmp_path / CHECKSUMS_FILE).write_bytes(files_json(describe_files(tmp_path, [path])))
    assert read_contract(tmp_path) == CONTRACT
    path.write_bytes(path.read_bytes().replace(b'"seq_length": 256', b'"seq_length": 252'))
    with pytest.raises(UserError, match=rf"{CONTRACT_NAME} has changed since it was written"):
        read_contract(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"tensors")  # all that earlier versions list
    (tmp_path / CHECKSUMS_FILE).write_bytes(files_json(describe_files(tmp_path, [weights])))
    assert read_contract(tmp_path).seq_length == 252


def test_a_normalization_is_of_the_contract_from_its_measurement_on(tmp_path: Path) -> None:
    (tmp_path / CONTRACT_NAME).write_bytes(CONTRACT.to_json())
    (tmp_path / FILES_NAME).write_bytes(b"the list of this checkpoint's files")
    assert "normalization" not in json.loads(CONTRACT.to_json())
    normalization = Normalization(mean=0.5, std=2.0, num_responses=8, data="held-out")
    path = write_normalization(tmp_path, normalization)
    contract = read_contract(tmp_path)
    assert contract == dataclasses.replace(CONTRACT, normalization=normalization)
    (tmp_path / "exported").mkdir()
    (tmp_path / "exported" / CONTRACT_NAME).write_bytes(contract.to_json())
    assert read_contract(tmp_path / "exported") == contract
    path.write_bytes(path.read_bytes().replace(b"2.0", b"3.0"))
    with pytest.raises(UserError, match=r"normalization.json is damaged .*: measure it again"):
        read_contract(tmp_path)


def test_a_normalization_that_was_measured_of_another_checkpoint_is_refused(tmp_path: Path) -> None:
    """Scores were normalized by the mean of another model's, without a word."""
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / CONTRACT_NAME).write_bytes(CONTRACT.to_json())
        (tmp_path / name / FILES_NAME).write_bytes(name.encode())
    path = write_normalization(tmp_path / "one", Normalization(mean=0.5))
    copied = tmp_path / "other" / path.name
    copied.write_bytes(path.read_bytes())
    with pytest.raises(UserError, match=r"other/normalization.json was measured of another checkpoint"):
        read_contract(tmp_path / "other")
    values = unsealed(json.loads(path.read_bytes()))
    del values["checkpoint"]  # as earlier versions wrote it
    copied.write_bytes(sealed_json(values, indent=1))
    assert read_contract(tmp_path / "other").normalization == Normalization(mean=0.5)


@pytest.mark.parametrize("not_use_fast", [False, True])
def test_the_stored_tokenizer_is_loaded_by_the_reader_of_the_run(not_use_fast: bool, tmp_path: Path) -> None:
    contract = dataclasses.replace(CONTRACT, tokenizer_not_use_fast=not_use_fast)
    (tmp_path / CONTRACT_NAME).write_bytes(contract.to_json())
    flags = contract_tokenizer(TokenizerConfig(), read_contract(tmp_path), tmp_path)
    assert flags.tokenizer_name_or_path == str(tmp_path / "tokenizer")
    assert flags.tokenizer_not_use_fast == not_use_fast


@pytest.mark.parametrize("name", ["tokenizer.model", "my-vocabulary.model", "vocabulary.spm", "mine.json"])
def test_the_stored_tokenizer_is_that_of_a_file_of_any_name(
    name: str, sentencepiece_path: Path, fast_directory: Path, tmp_path: Path
) -> None:
    given = tmp_path / name
    source = fast_directory / "tokenizer.json" if given.suffix == ".json" else sentencepiece_path
    shutil.copy(source, given)
    tokenizer = load_tokenizer(TokenizerConfig(tokenizer_model=str(given)))
    for stored, content in contract_files(CONTRACT, tokenizer).items():
        path = tmp_path / "iter_0000001" / stored
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    flags = contract_tokenizer(TokenizerConfig(), CONTRACT, tmp_path / "iter_0000001")
    assert load_tokenizer(flags).fingerprint == tokenizer.fingerprint


def test_a_contract_of_an_earlier_version_names_no_handler(tmp_path: Path) -> None:
    fields = json.loads(CONTRACT.to_json())
    del fields["handler"], fields["map_keys"]
    (tmp_path / CONTRACT_NAME).write_text(json.dumps(fields))
    assert read_contract(tmp_path) == dataclasses.replace(CONTRACT, handler=None, map_keys=None)


def test_a_field_of_a_newer_version_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / CONTRACT_NAME).write_text(json.dumps({**json.loads(CONTRACT.to_json()), "later": 1}))
    monkeypatch.setattr(logging.getLogger("modellink_rm"), "propagate", True)
    with caplog.at_level(logging.WARNING, logger="modellink_rm"):
        assert read_contract(tmp_path) == CONTRACT
    assert "later is unknown to this version of modellink-rm and is ignored" in caplog.text


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"prompt_type": '])
def test_a_damaged_contract_is_a_line(content: str, tmp_path: Path) -> None:
    (tmp_path / CONTRACT_NAME).write_text(content)
    with pytest.raises(UserError, match="is damaged"):
        read_contract(tmp_path)
