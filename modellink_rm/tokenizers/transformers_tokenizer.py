"""Tokenizers that only transformers, or their own Python code, can read."""

import dataclasses
import hashlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

from modellink_rm.base.errors import UserError
from modellink_rm.tokenizers.fast_tokenizer import FastTokenizer
from modellink_rm.tokenizers.settings_files import NAMED_TOKENS, SETTINGS_FILES, read_tokenizer_settings
from modellink_rm.tokenizers.tokenizer import Tokenizer, fingerprint_of

_OTHER_FILES = {".py", ".txt", ".model", ".tiktoken"}
_VOCABULARY_JSON = {"vocab.json", "vocab"}


class TransformersTokenizer(Tokenizer):
    """A tokenizer of transformers that is not backed by the tokenizers library."""

    def __init__(self, tokenizer: Any, *, name: str, files: tuple[Path, ...]) -> None:
        self._tokenizer = tokenizer
        self.name = name
        self.files = files
        self.special_tokens = dict(tokenizer.get_added_vocab())
        for token in tokenizer.all_special_tokens:
            self.special_tokens.setdefault(token, tokenizer.convert_tokens_to_ids(token))
        self.vocab_size = len(tokenizer)
        self.bos_id = tokenizer.bos_token_id
        self.eos_id = tokenizer.eos_token_id
        content = hashlib.sha256()
        for file in files:
            content.update(file.name.encode() + hashlib.sha256(file.read_bytes()).digest())
        settings = {"special": self.special_tokens, "bos": self.bos_id, "eos": self.eos_id}
        self.fingerprint = fingerprint_of("transformers", content.digest(), settings)

    def encode(self, text: str) -> list[int]:
        """Ids of `text` as plain text, as far as the tokenizer's own code supports that."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
        return ids

    def decode(self, ids: list[int]) -> str:
        """Text of `ids`, control tokens included."""
        text: str = self._tokenizer.decode(ids, skip_special_tokens=False)
        return text

    def with_control_tokens(self, tokens: Collection[str]) -> "TransformersTokenizer":
        """This tokenizer unchanged: its own code decides which tokens it finds in text."""
        return self


def load_transformers_tokenizer(directory: Path, *, trust_remote_code: bool) -> Tokenizer:
    """The tokenizer of a directory without tokenizer.json and without a sentencepiece model.

    Raises:
        UserError: transformers finds no tokenizer there, or only one that needs its own code.
    """
    settings = read_tokenizer_settings(directory)
    patterns = ("vocab*", "merges*", "*.model", "*.tiktoken", "tokenization_*.py")
    if not any(path for pattern in patterns for path in directory.glob(pattern)):
        raise UserError(f"{directory} holds no tokenizer: no tokenizer.json and no tokenizer.model")
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(directory), local_files_only=True, trust_remote_code=trust_remote_code
        )
    except Exception as error:  # transformers raises whatever the tokenizer's own code raises
        lines = str(error).strip().splitlines() or [type(error).__name__]
        hint = "" if trust_remote_code else "; --trust-remote-code would run code that comes with it"
        raise UserError(f"{directory} cannot be read as a tokenizer: {lines[0]}{hint}") from None
    files = tuple(sorted(path for path in directory.iterdir() if _is_tokenizer_file(path)))
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return TransformersTokenizer(tokenizer, name=str(directory), files=files)
    # The tokenizer's class may name special tokens that no file declares.
    named = {key: getattr(tokenizer, key) for key in NAMED_TOKENS if getattr(tokenizer, key, None)}
    settings = dataclasses.replace(settings, named=named, special=frozenset(tokenizer.all_special_tokens))
    return FastTokenizer(backend.to_str().encode(), settings, name=str(directory), files=files)


def _is_tokenizer_file(path: Path) -> bool:
    if path.name in SETTINGS_FILES or path.name in _VOCABULARY_JSON:
        return True
    return path.suffix in _OTHER_FILES and ("token" in path.name or path.name.startswith(("vocab", "merges")))
