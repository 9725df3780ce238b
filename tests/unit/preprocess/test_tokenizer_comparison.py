"""A directory with tokenizer.json and tokenizer.model: their ids are compared at the start."""

import json
from pathlib import Path

import pytest
import sentencepiece
import tokenizers
from tokenizers import decoders, models, normalizers

from modellink_rm.base.errors import run_command
from modellink_rm.base.log import warn_once
from modellink_rm.commands.preprocess import main
from tests.unit.conftest import train_sentencepiece

SPACE = "\u2581"
PLAIN = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}


def write_both(made, model_of):
    """A tokenizer.model, and a tokenizer.json of the model that `model_of` makes of its pieces."""
    made.mkdir()
    (made / "tokenizer.model").write_bytes(train_sentencepiece(**PLAIN))
    processor = sentencepiece.SentencePieceProcessor(model_file=str(made / "tokenizer.model"))
    backend = tokenizers.Tokenizer(model_of(processor))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    backend.decoder = decoders.Metaspace()
    backend.save(str(made / "tokenizer.json"))
    settings = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (made / "tokenizer_config.json").write_text(json.dumps(settings))
    record = {"instruction": "Human", "chosen": "no such word", "rejected": "no"}
    Path("in.jsonl").write_text(json.dumps(record))
    return made


def word_level(processor):
    return models.WordLevel(pieces_of(processor), unk_token="<unk>")


def byte_pairs(processor):
    """The same merges as sentencepiece's: a piece's parts in the order of the piece's score."""
    pieces = pieces_of(processor)
    merges = []
    for piece, index in pieces.items():
        splits = [(piece[:i], piece[i:]) for i in range(1, len(piece))]
        parts = [split for split in splits if split[0] in pieces and split[1] in pieces]
        parts.sort(key=lambda split: (pieces[split[0]], pieces[split[1]]))
        merges += [(-processor.get_score(index), len(merges) + i, split) for i, split in enumerate(parts)]
    ordered = [split for _, _, split in sorted(merges)]
    return models.BPE(pieces, ordered, unk_token="<unk>", fuse_unk=True, byte_fallback=True)


def pieces_of(processor):
    return {processor.id_to_piece(i): i for i in range(processor.get_piece_size())}


@pytest.fixture
def directory(tmp_path, monkeypatch):
    """A word-level tokenizer.json over the pieces of a tokenizer.model: most texts differ."""
    warn_once.cache_clear()
    monkeypatch.chdir(tmp_path)
    return write_both(tmp_path / "both", word_level)


def run(directory, *flags):
    words = ["--input", "in.jsonl", "--output-prefix", "x", "--prompt-type", "llama2"]
    words += ["--handler-name", "AlpacaStylePairwiseHandler", "--tokenizer-name-or-path", str(directory)]
    return run_command(main, [*words, *flags])


def test_a_difference_is_said_with_its_count_and_first_example(directory, capsys):
    assert run(directory) == 0
    error = capsys.readouterr().err
    assert f"warning: {directory}: tokenizer.json, which is used, and tokenizer.model differ in" in error
    # 10 fixed samples and the record's 3 texts
    assert "of 13 sample texts; the first: 'a  b   c' is [0] and not [" in error


def test_with_the_slow_tokenizer_the_other_file_is_compared(directory, capsys):
    assert run(directory, "--tokenizer-not-use-fast") == 0
    assert "tokenizer.model, which is used, and tokenizer.json differ" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [[], ["--tokenizer-not-use-fast"]])
def test_files_that_agree_are_not_mentioned(directory, tmp_path, capsys, flags):
    agreeing = write_both(tmp_path / "agreeing", byte_pairs)
    assert run(agreeing, *flags) == 0
    assert capsys.readouterr().err == ""


def test_a_single_file_is_not_mentioned(directory, capsys):
    (directory / "tokenizer.json").unlink()
    assert run(directory) == 0
    assert "differ" not in capsys.readouterr().err


def test_a_file_that_cannot_be_compared_is_named(directory, capsys):
    (directory / "tokenizer.json").write_text("{}")
    assert run(directory, "--tokenizer-not-use-fast") == 0
    assert "tokenizer.model is used; tokenizer.json could not be compared with it" in capsys.readouterr().err
