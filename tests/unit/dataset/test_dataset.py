import hashlib
import json
import logging
import shutil

import pytest

from modellink_rm.base.checksums import sealed_json, unsealed
from modellink_rm.base.errors import UserError
from modellink_rm.base.log import warn_once
from modellink_rm.config.preprocess import PreprocessConfig
from modellink_rm.config.tokenizer import TokenizerConfig
from modellink_rm.dataset.dataset import open_dataset
from modellink_rm.dataset.manifest import (
    PAIR_ARRAYS,
    array_prefix,
    checksums_path,
    data_files,
    key_of,
    manifest_path,
    read_manifest,
)
from modellink_rm.preprocess.pipeline import preprocess


@pytest.fixture(scope="module")
def made(tmp_path_factory, sentencepiece_path):
    directory = tmp_path_factory.mktemp("made")
    records = [{"instruction": f"q{i}", "chosen": "good " * i, "rejected": "bad"} for i in range(5)]
    (directory / "in.jsonl").write_text("\n".join(map(json.dumps, records)))
    config = PreprocessConfig(
        input=(str(directory / "in.jsonl"),),
        output_prefix=str(directory / "x"),
        handler_name="AlpacaStylePairwiseHandler",
        prompt_type="llama2",
    )
    preprocess(config, TokenizerConfig(tokenizer_model=str(sentencepiece_path)))
    return directory / "x"


@pytest.fixture
def prefix(made, tmp_path):
    """A copy of a data set to damage, under another name."""
    for path in [*data_files(made), checksums_path(made), manifest_path(made)]:
        shutil.copy(path, tmp_path / path.name.replace("x", "copy", 1))
    return tmp_path / "copy"


def file_of(prefix, array, suffix):
    path = array_prefix(prefix, array)
    return path.with_name(path.name + suffix)


def cut(path):
    path.write_bytes(path.read_bytes()[:-4])


def swap(first, second):
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)


def test_a_whole_data_set_is_accepted_under_any_name(prefix):
    manifest = open_dataset(prefix).manifest
    assert (manifest.num_read, manifest.num_kept) == (5, 5)
    for path in data_files(prefix):
        entry = manifest.files[key_of(path, prefix)]
        assert entry.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_its_own_tokenizer_and_template_are_accepted(prefix):
    dataset = open_dataset(prefix)
    dataset.check_tokenizer(dataset.manifest.tokenizer_fingerprint)
    dataset.check_template(dataset.manifest.template_fingerprint)
    assert dataset.template().fingerprint == dataset.manifest.template_fingerprint


@pytest.mark.parametrize("array", PAIR_ARRAYS)
@pytest.mark.parametrize("suffix", [".bin", ".idx"])
def test_a_missing_file_is_named(prefix, array, suffix):
    file_of(prefix, array, suffix).unlink()
    with pytest.raises(UserError, match=f"copy_packed_{array}_document{suffix} is missing"):
        open_dataset(prefix)


@pytest.mark.parametrize("with_manifest", [True, False])
@pytest.mark.parametrize("array", PAIR_ARRAYS)
@pytest.mark.parametrize("suffix", [".bin", ".idx"])
def test_a_file_that_is_cut_off_is_named(prefix, array, suffix, with_manifest):
    if not with_manifest:
        manifest_path(prefix).unlink()
    cut(file_of(prefix, array, suffix))
    with pytest.raises(UserError, match=f"copy_packed_{array}_document{suffix}"):
        open_dataset(prefix)


def test_another_tokenizer_is_refused(prefix):
    with pytest.raises(
        UserError, match=r"copy_manifest.json: .*another tokenizer \(tokenizer.model, fingerprint"
    ):
        open_dataset(prefix).check_tokenizer("0" * 64)


def test_another_template_is_refused(prefix):
    with pytest.raises(UserError, match=r"copy_manifest.json: .*--prompt-type llama2"):
        open_dataset(prefix).check_template("0" * 64)


def test_data_without_a_manifest_is_taken_with_a_warning(prefix, caplog):
    warn_once.cache_clear()
    manifest_path(prefix).unlink()
    dataset = open_dataset(prefix)
    assert dataset.manifest is None
    dataset.check_tokenizer("0" * 64)
    dataset.check_template("0" * 64)
    assert "written by another tool" in caplog.text


def test_arrays_of_unequal_rows_are_refused_without_a_manifest(prefix, made, tmp_path, sentencepiece_path):
    manifest_path(prefix).unlink()
    lines = (made.parent / "in.jsonl").read_text().splitlines()
    (tmp_path / "fewer.jsonl").write_text("\n".join(lines[:3]))
    config = PreprocessConfig(
        input=(str(tmp_path / "fewer.jsonl"),),
        output_prefix=str(tmp_path / "fewer"),
        handler_name="AlpacaStylePairwiseHandler",
        prompt_type="llama2",
    )
    preprocess(config, TokenizerConfig(tokenizer_model=str(sentencepiece_path)))
    for suffix in (".bin", ".idx"):
        file = file_of(tmp_path / "fewer", "rejected_labels", suffix)
        shutil.copy(file, file_of(prefix, "rejected_labels", suffix))
    with pytest.raises(UserError, match=r"rejected_labels_document.idx has 3 rows instead of 5"):
        open_dataset(prefix)


def test_labels_of_other_lengths_than_their_ids_are_refused(prefix):
    manifest_path(prefix).unlink()
    for suffix in (".bin", ".idx"):
        swap(file_of(prefix, "chosen_labels", suffix), file_of(prefix, "rejected_labels", suffix))
    with pytest.raises(UserError, match=r"chosen_labels_document.idx has rows of other lengths"):
        open_dataset(prefix)


@pytest.mark.parametrize(
    "content", ["{", "{}", "[]", '{"format_version": 1}', '{"format_version": 1, "files": 3}']
)
def test_a_damaged_manifest_is_named(prefix, content):
    manifest_path(prefix).write_text(content)
    with pytest.raises(UserError, match=r"copy_manifest.json is damaged"):
        open_dataset(prefix)


@pytest.mark.parametrize("place", [[], ["lengths", "row"], ["files", "_packed_chosen_labels_document.bin"]])
def test_a_field_of_a_newer_manifest_is_reported_and_ignored(place, prefix, caplog, monkeypatch):
    before = read_manifest(prefix)
    content = unsealed(json.loads(manifest_path(prefix).read_text()))
    inner = content
    for name in place:
        inner = inner[name]
    inner["later"] = 1
    manifest_path(prefix).write_bytes(sealed_json(content, indent=2))
    monkeypatch.setattr(logging.getLogger("modellink_rm"), "propagate", True)
    with caplog.at_level(logging.WARNING, logger="modellink_rm"):
        assert read_manifest(prefix) == before
    message = "copy_manifest.json: later is unknown to this version of modellink-rm and is ignored"
    assert message in caplog.text


def test_a_manifest_of_a_later_format_is_refused(prefix):
    path = manifest_path(prefix)
    path.write_text(json.dumps({**json.loads(path.read_text()), "format_version": 3}))
    with pytest.raises(UserError, match="format version 3"):
        open_dataset(prefix)
