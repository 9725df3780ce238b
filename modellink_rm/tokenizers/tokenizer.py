"""What the data flow asks of a tokenizer, and which backend reads which files."""

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
        name: what messages and manifests call it.
        special_tokens: ids of the tokens that a template may spell: control tokens, and other added
            tokens in brackets.
        vocab_size: one more than the largest id.
        bos_id: None where the tokenizer has none.
        eos_id: None where the tokenizer has none.
        fingerprint: sha256 over what determines the ids; the same wherever the files lie.
        files: what to copy beside a checkpoint to get the same tokenizer again.
        trusts_its_code: whether the user lets Python code that comes with the tokenizer run.
    """

    name: str
    special_tokens: Mapping[str, int]
    vocab_size: int
    bos_id: int | None
    eos_id: int | None
    fingerprint: str
    files: tuple[Path, ...]
    trusts_its_code: bool = False

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Ids of `text` as plain text: no BOS or EOS, and control tokens spelled in it stay text."""

    def encode_array(self, text: str) -> "array[int]":
        """As `encode`, int32 ("i"): the form in which ids are joined and written."""
        return array("i", self.encode(text))

    @abstractmethod
    def decode(self, ids: list[int]) -> str:
        """Text of `ids`, control tokens included where the backend can spell them."""

    @abstractmethod
    def with_control_tokens(self, tokens: Collection[str]) -> "Tokenizer":
        """This tokenizer, whose `encode` reads `tokens` as text even if they are not flagged special."""

    def token_to_id(self, token: str) -> int | None:
        """Id of a control or added token, None where there is no such token."""
        return self.special_tokens.get(token)


def fingerprint_of(backend: str, vocabulary: bytes, settings: Mapping[str, object]) -> str:
    """Sha256, in hex, of the vocabulary file's content and the settings that determine ids beside it."""
    digest = hashlib.sha256(backend.encode())
    digest.update(hashlib.sha256(vocabulary).digest())
    digest.update(json.dumps(settings, sort_keys=True).encode())
    return digest.hexdigest()
