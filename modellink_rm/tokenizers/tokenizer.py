"""The interface of tokenizers."""

import hashlib
import json
import re
from abc import ABC, abstractmethod
from array import array
from collections.abc import Collection, Mapping
from pathlib import Path

_BRACKETED = re.compile(r"<[^<>\s]+>|\[[^\[\]\s]+\]")


def is_bracketed(token: str) -> bool:
    """True for <|im_start|> or [gMASK]: added tokens that mark up a chat, unlike runs of spaces."""
    return _BRACKETED.fullmatch(token) is not None


class Tokenizer(ABC):
    """Text to token ids: plain text by `encode`, control tokens by name.

    Attributes:
        name: the directory or file that it was loaded from; messages and manifests name it so.
        special_tokens: ids of the tokens that a template may contain: control tokens, and other added
            tokens in brackets.
        vocab_size: one more than the largest id.
        bos_id: None if the tokenizer has none.
        eos_id: None if the tokenizer has none.
        fingerprint: sha256 of everything that determines the ids; independent of the files' location.
        files: files to copy into a checkpoint to get the same tokenizer again.
        vocabulary_name: what the first of `files` must be called in a directory; "" for its own name.
        trusts_its_code: whether the user allows Python code that comes with the tokenizer to run.
    """

    name: str
    special_tokens: Mapping[str, int]
    vocab_size: int
    bos_id: int | None
    eos_id: int | None
    fingerprint: str
    files: tuple[Path, ...]
    vocabulary_name: str = ""
    trusts_its_code: bool = False

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Ids of `text` as plain text: no BOS or EOS, and control tokens spelled in it stay text."""

    def encode_array(self, text: str) -> "array[int]":
        """As `encode`, but an int32 array ("i"): the form in which ids are joined and written."""
        return array("i", self.encode(text))

    @abstractmethod
    def decode(self, ids: list[int]) -> str:
        """Text of `ids`, with control tokens if the backend can spell them."""

    @abstractmethod
    def with_control_tokens(self, tokens: Collection[str]) -> "Tokenizer":
        """This tokenizer with an `encode` that also reads `tokens` as text, flagged special or not."""

    def token_to_id(self, token: str) -> int | None:
        """Id of a control or added token; None if there is no such token."""
        return self.special_tokens.get(token)


def fingerprint_of(backend: str, vocabulary: bytes, settings: Mapping[str, object]) -> str:
    """Sha256, in hex, of the vocabulary file's content and of the other settings that determine ids."""
    digest = hashlib.sha256(backend.encode())
    digest.update(hashlib.sha256(vocabulary).digest())
    digest.update(json.dumps(settings, sort_keys=True).encode())
    return digest.hexdigest()
