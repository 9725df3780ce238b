import dataclasses
from pathlib import Path

import pytest

from modellink_rm.base.errors import UserError
from modellink_rm.base.parts import first_difference
from modellink_rm.config.preprocess import PreprocessConfig
from modellink_rm.config.tokenizer import TokenizerConfig
from modellink_rm.preprocess.encode import RecordEncoder
from modellink_rm.preprocess.identity import RunIdentity, identity_of
from modellink_rm.preprocess.parts import locked_parts, read_shard

RECORD = '{"instruction": "q", "chosen": "a", "rejected": "b"}'
OTHER_FLAGS = {
    "map_keys": '{"prompt": "q"}',
    "seq_length": 9,
    "max_prompt_length": 9,
    "max_answer_length": 9,
    "drop": ("equal",),
    "max_record_bytes": 99,
    "max_expansion": 9,
    "num_shards": 9,
}
FREE_FLAGS = {"output_prefix": "y", "workers": 3, "log_interval": 9, "strict": True, "resume": True}


@pytest.fixture
def config(tmp_path):
    (tmp_path / "in.jsonl").write_text(RECORD)
    return PreprocessConfig(
        input=(str(tmp_path / "in.jsonl"),),
        output_prefix="x",
        handler_name="AlpacaStylePairwiseHandler",
        prompt_type="llama2",
    )


@pytest.fixture
def work(config, sentencepiece_path):
    return RecordEncoder(config, TokenizerConfig(tokenizer_model=str(sentencepiece_path)))


def test_an_identity_survives_its_json(config, work):
    identity = identity_of(dataclasses.replace(config, drop=("equal", "empty")), work)
    assert RunIdentity.from_json(identity.to_json()) == identity


@pytest.mark.parametrize(("name", "value"), OTHER_FLAGS.items())
def test_a_flag_that_changes_rows_is_the_difference(config, work, name, value):
    other = dataclasses.replace(config, **{name: value})
    difference = first_difference(identity_of(config, work).to_json(), identity_of(other, work).to_json())
    assert difference == name


@pytest.mark.parametrize(("name", "value"), FREE_FLAGS.items())
def test_a_flag_that_changes_no_row_makes_no_difference(config, work, name, value):
    assert identity_of(dataclasses.replace(config, **{name: value}), work) == identity_of(config, work)


def test_an_identity_holds_every_other_flag_of_the_command(config, work):
    free = {*FREE_FLAGS, "rejects", "shard_index"}
    names = {field.name for field in dataclasses.fields(PreprocessConfig)} - free
    identity = identity_of(config, work)
    own = {field.name for field in dataclasses.fields(identity)}
    assert names <= own | set(identity.other_flags)


def test_a_handler_of_the_user_that_was_edited_is_the_difference(config, work, tmp_path):
    """Else --resume, and shards, would mix rows that were read in two ways."""
    path = tmp_path / "mine.py"
    path.write_text("class Mine: pass")
    config = dataclasses.replace(config, handler_name=f"{path}:Mine")
    before = identity_of(config, work)
    assert RunIdentity.from_json(before.to_json()) == before == identity_of(config, work)
    path.write_text("class Mine: answers = 3")
    assert first_difference(before.to_json(), identity_of(config, work).to_json()) == "handler_file"


def test_a_shard_of_before_handler_files_were_kept_is_merged_where_it_has_none(config, work, tmp_path):
    identity = identity_of(config, work)
    older = identity.to_json().replace(b'"handler_file": null, ', b"")
    assert b"handler_file" not in older
    assert RunIdentity.from_json(older) == identity


def test_a_shard_of_another_version_is_to_be_run_again(config, work, tmp_path, monkeypatch):
    identity = identity_of(config, work)
    older = identity.to_json().replace(b'"keeps_rejects"', b'"keeps_refused"')
    monkeypatch.setattr(RunIdentity, "to_json", lambda self: older)
    path = Path(tmp_path, "x_shard_0_of_2.parts")
    with locked_parts(path, flag="") as parts:
        parts.start(identity)
    with pytest.raises(UserError, match="of another version, without 'keeps_rejects': run that shard again"):
        read_shard(path)
