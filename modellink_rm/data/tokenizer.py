"""What the data flow asks of a tokenizer, and which backend reads which files."""

import hashlib
import json
import re
from abc import ABC, abstractmethod
from array import array
from collections.abc import Collection, Mapping
from pathlib import Path

from modellink_rm.config.tokenizer import TokenizerConfig
from modellink_rm.errors import UserError
from modellink_rm.log import warn_once

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
        pad_id: the EOS where the tokenizer has no pad token.
        fingerprint: sha256 over what determines the ids; the same wherever the files lie.
        files: what to copy beside a checkpoint to get the same tokenizer again.
    """

    name: str
    special_tokens: Mapping[str, int]
    vocab_size: int
    bos_id: int | None
    eos_id: int | None
    pad_id: int | None
    fingerprint: str
    files: tuple[Path, ...]

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


def load_tokenizer(config: TokenizerConfig) -> Tokenizer:
    """The tokenizer that the flags name, read from local files.

    tokenizer.json is read by the tokenizers library; without one, or with
    --tokenizer-not-use-fast, tokenizer.model by sentencepiece; anything else by transformers.

    Raises:
        UserError: no such path, no tokenizer in it, or one whose own code would have to run.
    """
    if config.tokenizer_name_or_path is None and config.tokenizer_model is None:
        raise UserError("a tokenizer is needed: give --tokenizer-name-or-path DIR or --tokenizer-model FILE")
    if config.tokenizer_type == "GPTSentencePieceTokenizer" or config.tokenizer_name_or_path is None:
        flag, given = "--tokenizer-model", config.tokenizer_model
    else:
        flag, given = "--tokenizer-name-or-path", config.tokenizer_name_or_path
    assert given is not None
    path = Path(given)
    if not path.exists():
        raise UserError(f"{flag} {given} does not exist; it must be on this machine, nothing is downloaded")
    if config.tokenizer_model not in (None, given):
        warn_once("--tokenizer-model is ignored: --tokenizer-name-or-path is given")
    if path.is_file():
        return _load_file(path)
    return _load_directory(path, config)


def _load_file(path: Path) -> Tokenizer:
    if path.suffix == ".json":
        from modellink_rm.data.fast_tokenizer import load_fast_tokenizer

        return load_fast_tokenizer(path)
    from modellink_rm.data.sentencepiece_tokenizer import load_sentencepiece_tokenizer

    return load_sentencepiece_tokenizer(path)


def _load_directory(directory: Path, config: TokenizerConfig) -> Tokenizer:
    tokenizer_json, tokenizer_model = directory / "tokenizer.json", directory / "tokenizer.model"
    if tokenizer_json.exists() and not (config.tokenizer_not_use_fast and tokenizer_model.exists()):
        if config.tokenizer_not_use_fast:
            warn_once(f"--tokenizer-not-use-fast is ignored: {directory} has no tokenizer.model")
        return _load_file(tokenizer_json)
    if tokenizer_model.exists():
        from modellink_rm.data.chatglm_tokenizer import is_chatglm_directory, load_chatglm_tokenizer
        from modellink_rm.data.sentencepiece_tokenizer import is_sentencepiece_model

        if is_chatglm_directory(directory):
            return load_chatglm_tokenizer(directory)
        if is_sentencepiece_model(tokenizer_model):
            return _load_file(tokenizer_model)
        if not config.trust_remote_code:
            raise UserError(
                f"{tokenizer_model} is not a sentencepiece model: it is damaged, or of another kind, "
                "which is read from a tokenizer.json beside it, or by its own code with --trust-remote-code"
            )
    from modellink_rm.data.transformers_tokenizer import load_transformers_tokenizer

    return load_transformers_tokenizer(directory, trust_remote_code=config.trust_remote_code)
