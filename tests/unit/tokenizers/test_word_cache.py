"""Ids of the word cache are those of sentencepiece over the whole text."""

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from modellink_rm.tokenizers.sentencepiece_tokenizer import load_sentencepiece_tokenizer
from modellink_rm.tokenizers.word_cache import WordCachingTokenizer, with_word_cache
from tests.unit.conftest import train_sentencepiece

PLAIN = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A tokenizer with a cache, and sentencepiece itself on the same model."""
    directory = tmp_path_factory.mktemp("words")

    def make(name, **options):
        path = directory / f"{name}.model"
        path.write_bytes(train_sentencepiece(**options))
        processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
        return with_word_cache(load_sentencepiece_tokenizer(path)), processor

    return make


@pytest.fixture(scope="module")
def plain(made):
    return made("plain", **PLAIN)


# Pieces that make every border: runs of spaces and line breaks, unknown characters, the mark itself.
PARTS = [" ", "  ", "   ", "\n", "\n\n", "\t", "\r\n", "a", "the", "capital", " of", "France?", "你好", "é"]
PARTS += ["\u2581", "\x00", "🙂", "</s>", "<s>", "<unk>", "<0x0A>", ".", "4567", "\u3000", "\xa0", "e\u0301"]


@settings(max_examples=1500, deadline=None)
@given(st.one_of(st.lists(st.sampled_from(PARTS), max_size=14).map("".join), st.text(max_size=20)))
def test_ids_are_sentencepieces_own_for_any_text(plain, text):
    tokenizer, processor = plain
    assert tokenizer.encode(text) == processor.encode(text)
    assert tokenizer.encode(text) == processor.encode(text)  # from the cache


def test_a_full_cache_starts_anew_with_the_same_ids(plain, monkeypatch):
    monkeypatch.setattr("modellink_rm.tokenizers.word_cache._MAX_CHARACTERS", 3)
    tokenizer, processor = plain
    for text in ("a b c d e f g", "g f e\n\nd c b a", "a b " * 9):
        assert tokenizer.encode(text) == processor.encode(text)


def test_a_plain_bpe_is_cached(plain):
    assert isinstance(plain[0], WordCachingTokenizer)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("normalized", {}),
        ("spaces-removed", {"normalization_rule_name": "identity"}),
        ("no-space-added", {**PLAIN, "add_dummy_prefix": False}),
        ("suffix", {**PLAIN, "treat_whitespace_as_suffix": True}),
        ("across-words", {**PLAIN, "user_defined_symbols": ["of\u2581France"]}),
        ("across-lines", {**PLAIN, "user_defined_symbols": ["\n\n"]}),
    ],
)
def test_a_model_whose_words_are_not_independent_is_unchanged(made, name, options):
    tokenizer, processor = made(name, **options)
    assert not isinstance(tokenizer, WordCachingTokenizer)
    assert tokenizer.encode("capital of France\n\nParis ") == processor.encode("capital of France\n\nParis ")


def test_a_vocabulary_may_have_any_name(tmp_path):
    path = tmp_path / "vocabulary.spm"
    path.write_bytes(train_sentencepiece(**PLAIN))
    tokenizer = with_word_cache(load_sentencepiece_tokenizer(path))
    assert isinstance(tokenizer, WordCachingTokenizer)
    assert tokenizer.encode("The capital") == load_sentencepiece_tokenizer(path).encode("The capital")


def test_a_piece_of_two_spaces_is_found_wherever_they_stand(made):
    tokenizer, processor = made("two-spaces", **PLAIN, user_defined_symbols=["\u2581\u2581"])
    assert isinstance(tokenizer, WordCachingTokenizer)
    for text in (" the capital", "the  capital", "the capital ", " \n the", "the capital"):
        assert tokenizer.encode(text) == processor.encode(text)
