"""A cache of the ids of words for sentencepiece: most words of a text have occurred before."""

import re
from array import array
from collections.abc import Collection

from modellink_rm.tokenizers.protobuf import message_fields
from modellink_rm.tokenizers.sentencepiece_tokenizer import SentencePieceTokenizer, open_processor
from modellink_rm.tokenizers.tokenizer import Tokenizer

# A word: the spaces before it and what follows up to the next space or line break; or line breaks and
# what follows them.
_WORDS = re.compile(r" +[^ \n]*|\n+[^ \n]*")
_SPACE = "\u2581"
_BETWEEN = "\uffff"  # not a character, so it is in no piece
_JOINED = re.compile(f"[^{_SPACE}{_BETWEEN}]{_SPACE}|[^{_BETWEEN}]\n|\n[^{_BETWEEN}]")
# About 20 MB of words and ids, which 1 GB of any text fills; a full cache is emptied.
_MAX_CHARACTERS = 1 << 20


def with_word_cache(tokenizer: Tokenizer) -> Tokenizer:
    """A tokenizer with the same ids, cached if its words are known to be independent."""
    if isinstance(tokenizer, SentencePieceTokenizer) and are_words_independent(tokenizer):
        return WordCachingTokenizer(tokenizer)
    return tokenizer


class _IdsOfWords(dict[str, bytes]):
    """Word, with the spaces or line breaks before it -> its ids as int32, computed at the first lookup.

    Bytes are joined several times faster than lists, take a third of the memory, and are not scanned by the
    garbage collector.

    Attributes:
        num_characters: of all words in the cache.
    """

    def __init__(self, tokenizer: SentencePieceTokenizer) -> None:
        super().__init__()
        self._encode = tokenizer.encode
        # sentencepiece puts a space before every text.
        one, two = self._encode("\n"), self._encode("\n\n")
        space_ids = one[: 2 * len(one) - len(two)]
        self._num_space_ids = len(space_ids)
        self[" "] = array("i", space_ids).tobytes()
        self.num_characters = 0

    def __missing__(self, word: str) -> bytes:
        ids = self._encode(word[1:]) if word[0] == " " else self._encode(word)[self._num_space_ids :]
        found = self[word] = array("i", ids).tobytes()
        self.num_characters += len(word)
        return found


class _IdsOfPieces(dict[str, bytes]):
    """As `_IdsOfWords`, of words whose one space before them is left out, and of line breaks with a word."""

    def __init__(self, ids_of_words: _IdsOfWords) -> None:
        super().__init__()
        self._ids_of_words = ids_of_words

    def __missing__(self, piece: str) -> bytes:
        found = self[piece] = self._ids_of_words[piece if piece[:1] == "\n" else " " + piece]
        return found


class WordCachingTokenizer(Tokenizer):
    """A sentencepiece BPE in which no piece crosses the border between two words.

    BPE merges only neighbours, so the ids of a text are those of its words. sentencepiece encodes each word
    once.
    """

    def __init__(self, inner: SentencePieceTokenizer) -> None:
        self._inner = inner
        self._empty_cache()
        self.name = inner.name
        self.special_tokens = inner.special_tokens
        self.vocab_size = inner.vocab_size
        self.bos_id = inner.bos_id
        self.eos_id = inner.eos_id
        self.fingerprint = inner.fingerprint
        self.files = inner.files
        self.trusts_its_code = inner.trusts_its_code

    def encode(self, text: str) -> list[int]:
        """Ids of `text` as plain text, sentencepiece's own."""
        return self.encode_array(text).tolist()

    def encode_array(self, text: str) -> "array[int]":
        """As `encode`, int32."""
        if not text or _SPACE in text:  # a text that contains the mark of a space joins words
            return self._inner.encode_array(text)
        if self._ids_of_words.num_characters > _MAX_CHARACTERS:
            self._empty_cache()
        if "  " in text or text[0] == " ":
            ids = map(self._ids_of_words.__getitem__, _WORDS.findall(" " + text))
        else:
            # Single spaces: str.split is several times faster than the pattern. A line break is a piece of
            # its own, so runs of them can be divided.
            pieces = text.replace("\n", " \n").split(" ")
            ids = map(self._ids_of_pieces.__getitem__, pieces)
        return array("i", b"".join(ids))

    def _empty_cache(self) -> None:
        self._ids_of_words = _IdsOfWords(self._inner)
        self._ids_of_pieces = _IdsOfPieces(self._ids_of_words)

    def decode(self, ids: list[int]) -> str:
        """Text of `ids`."""
        return self._inner.decode(ids)

    def with_control_tokens(self, tokens: Collection[str]) -> Tokenizer:
        """This tokenizer with an `encode` that also reads `tokens` as text."""
        inner = self._inner.with_control_tokens(tokens)
        return self if inner is self._inner else with_word_cache(inner)


def are_words_independent(tokenizer: SentencePieceTokenizer) -> bool:
    """True for a BPE that does not normalize text and has no piece across the border of two words.

    Field numbers are those of sentencepiece_model.proto (sentencepiece 0.2).
    """
    model = tokenizer.files[0].read_bytes()
    processor = open_processor(model, tokenizer.name)
    if _JOINED.search(_BETWEEN.join(processor.id_to_piece(list(range(processor.get_piece_size()))))):
        return False
    trainer: dict[int, bytes] = {}
    normalizer: dict[int, bytes] = {}
    for field in message_fields(model, 0, len(model)):
        if field.number in (2, 3):
            values = trainer if field.number == 2 else normalizer
            for part in message_fields(model, field.start, field.end):
                values[part.number] = model[part.start : part.end]
    is_bpe = trainer.get(3) == b"\x02"
    # no map of characters; one space added at the start, spaces kept and marked; the mark not a suffix
    keeps_text = not normalizer.get(2) and normalizer.get(3, b"\x01") == b"\x01"
    keeps_spaces = normalizer.get(4) == b"\x00" and normalizer.get(5, b"\x01") == b"\x01"
    has_bytes = trainer.get(35) == b"\x01"  # else neighbours that are unknown become one token
    return is_bpe and keeps_text and keeps_spaces and has_bytes and trainer.get(24, b"\x00") == b"\x00"
