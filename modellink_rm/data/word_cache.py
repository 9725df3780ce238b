"""sentencepiece's own ids, each word's looked up once: most words of a text came before."""

import re
from collections.abc import Collection
from itertools import chain

from modellink_rm.data.sentencepiece_tokenizer import SentencePieceTokenizer, _fields
from modellink_rm.data.tokenizer import Tokenizer

# A word: the spaces before it and what follows up to the next space or line break; or line breaks and
# what follows them.
_WORDS = re.compile(r" +[^ \n]*|\n+[^ \n]*")
_SPACE = "\u2581"
_JOINED = re.compile(f"[^{_SPACE}]{_SPACE}|.\n|\n.", re.DOTALL)
_LONGEST_WORD = 64
# Some 25 MB; when it is full it starts anew.
_MAX_WORDS = 1 << 17


def with_word_cache(tokenizer: Tokenizer) -> Tokenizer:
    """A tokenizer with the same ids: a faster one where words can be told to be independent."""
    if isinstance(tokenizer, SentencePieceTokenizer) and are_words_independent(tokenizer):
        return WordCachingTokenizer(tokenizer)
    return tokenizer


class WordCachingTokenizer(Tokenizer):
    """A sentencepiece BPE none of whose pieces reaches from one word into the next.

    BPE merges neighbours only, so the ids of such a text are those of its words. Each word goes to
    sentencepiece the first time it comes.
    """

    def __init__(self, inner: SentencePieceTokenizer) -> None:
        self._inner = inner
        self._cache: dict[str, list[int]] = {}
        # sentencepiece puts a space before every text.
        one, two = inner.encode("\n"), inner.encode("\n\n")
        self._space_ids = one[: 2 * len(one) - len(two)]
        self.name = inner.name
        self.special_tokens = inner.special_tokens
        self.vocab_size = inner.vocab_size
        self.bos_id = inner.bos_id
        self.eos_id = inner.eos_id
        self.pad_id = inner.pad_id
        self.fingerprint = inner.fingerprint
        self.files = inner.files

    def encode(self, text: str) -> list[int]:
        """Ids of `text` as plain text, sentencepiece's own."""
        if not text or _SPACE in text:  # the mark of a space, spelled in a text, joins spaces
            return self._inner.encode(text)
        words = _WORDS.findall(" " + text)
        try:
            return list(chain.from_iterable(map(self._cache.__getitem__, words)))
        except KeyError:
            return list(chain.from_iterable(map(self._ids_of, words)))

    def _ids_of(self, word: str) -> list[int]:
        """Ids of a word with the spaces or line breaks before it."""
        ids = self._cache.get(word)
        if ids is None:
            ids = self._computed(word)
            if len(word) <= _LONGEST_WORD:
                if len(self._cache) >= _MAX_WORDS:
                    self._cache.clear()
                self._cache[word] = ids
        return ids

    def _computed(self, word: str) -> list[int]:
        if word == " ":
            return self._space_ids
        if word[0] == " ":  # sentencepiece adds the first space itself
            return self._inner.encode(word[1:])
        return self._inner.encode(word)[len(self._space_ids) :]

    def decode(self, ids: list[int]) -> str:
        """Text of `ids`."""
        return self._inner.decode(ids)

    def with_control_tokens(self, tokens: Collection[str]) -> Tokenizer:
        """This tokenizer, whose `encode` reads `tokens` too as text."""
        inner = self._inner.with_control_tokens(tokens)
        return self if inner is self._inner else with_word_cache(inner)


def are_words_independent(tokenizer: SentencePieceTokenizer) -> bool:
    """True for a BPE that takes text as it is and has no piece across the border of two words.

    Field numbers are those of sentencepiece_model.proto (sentencepiece 0.2).
    """
    model = next(path for path in tokenizer.files if path.suffix == ".model").read_bytes()
    trainer: dict[int, bytes] = {}
    normalizer: dict[int, bytes] = {}
    for field in _fields(model, 0, len(model)):
        if field.number == 1:
            text = next(part for part in _fields(model, field.start, field.end) if part.number == 1)
            if _JOINED.search(model[text.start : text.end].decode()):
                return False
        elif field.number in (2, 3):
            values = {
                part.number: model[part.start : part.end] for part in _fields(model, field.start, field.end)
            }
            (trainer if field.number == 2 else normalizer).update(values)
    is_bpe = trainer.get(3) == b"\x02"
    # no map of characters; one space added at the start, spaces kept and marked; the mark not a suffix
    keeps_text = not normalizer.get(2) and normalizer.get(3, b"\x01") == b"\x01"
    keeps_spaces = normalizer.get(4) == b"\x00" and normalizer.get(5, b"\x01") == b"\x01"
    has_bytes = trainer.get(35) == b"\x01"  # else neighbours that are unknown become one token
    return is_bpe and keeps_text and keeps_spaces and has_bytes and trainer.get(24, b"\x00") == b"\x00"
