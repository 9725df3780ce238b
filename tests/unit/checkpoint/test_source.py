"""What --load names: the tokenizer's flags that it completes, and the model that adapters update."""

import dataclasses
import shutil
from pathlib import Path

import pytest

from modellink_rm.adapters.lora import Lora
from modellink_rm.base.errors import UserError
from modellink_rm.base.outputs import prepare_output
from modellink_rm.checkpoint.base_reference import BaseReference
from modellink_rm.checkpoint.contract import CONTRACT_NAME, InferenceContract
from modellink_rm.checkpoint.files import FILES_NAME, describe_files, files_json
from modellink_rm.checkpoint.layout import CheckpointInfo, read_checkpoint_info
from modellink_rm.checkpoint.source import ModelSource, open_source, tokenizer_of
from modellink_rm.commands.output import files_of_model
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


def checkpoint_of_adapters(directory: Path, base: Path) -> Path:
    """A checkpoint that says that it holds adapters of the model in `base`."""
    copy = shutil.copytree(CHECKPOINT, directory / "iter_0000002")
    run = read_checkpoint_info(CHECKPOINT).run
    lora = Lora(rank=2, alpha=4, targets=("self_attn.q_proj",))
    spec = dataclasses.replace(run.spec, lora=lora)
    reference = BaseReference(path=str(base), fingerprint="x")
    (copy / "run.json").write_bytes(dataclasses.replace(run, spec=spec, base=reference).to_json())
    files = [path for path in copy.rglob("*") if path.is_file() and path.name != FILES_NAME]
    (copy / FILES_NAME).write_bytes(files_json(describe_files(copy, files)))
    return copy


def test_a_checkpoint_of_adapters_that_names_itself_as_its_model_is_refused(tmp_path: Path) -> None:
    load = checkpoint_of_adapters(tmp_path, tmp_path / "iter_0000002")
    with pytest.raises(UserError, match=r"run.json is damaged \(it holds adapters of .* which"):
        open_source(str(load))


def test_what_adapters_update_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    config = tmp_path / "model" / "config.json"
    config.write_text("{}")
    load = checkpoint_of_adapters(tmp_path, tmp_path / "model")
    assert config in files_of_model(load)
    assert config in files_of_model(tmp_path / "other", str(load))
    with pytest.raises(UserError, match=r"--output .*config.json is .*config.json, which this"):
        prepare_output(str(config), inputs=files_of_model(load))
