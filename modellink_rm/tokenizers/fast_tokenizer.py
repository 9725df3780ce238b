"""tokenizer.json, read by the tokenizers library."""

import os
from collections.abc import Collection, Mapping
from pathlib import Path

import tokenizers

from modellink_rm.base.errors import UserError
from modellink_rm.tokenizers.settings_files import TokenizerSettings, read_tokenizer_settings
from modellink_rm.tokenizers.tokenizer import Tokenizer, fingerprint_of, is_bracketed


class FastTokenizer(Tokenizer):
    """A tokenizer of the tokenizers library.

    Args:
        serialized: content of a tokenizer.json.
        settings: special tokens that the files beside it declare.
        name: for messages.
        files: files to copy into a checkpoint.
        control_tokens: tokens to read as text in messages, in addition to those flagged special.
    """

    def __init__(
        self,
        serialized: bytes,
        settings: TokenizerSettings,
        *,
        name: str,
        files: tuple[Path, ...],
        control_tokens: frozenset[str] = frozenset(),
    ) -> None:
        try:
            backend = tokenizers.Tokenizer.from_str(serialized.decode())
        except (KeyboardInterrupt, SystemExit, MemoryError):
            raise
        except BaseException as error:  # the library raises Exception itself, and where Rust panics a sister
            # the first is what was read, except where the library wrote `serialized`, which it can read
            raise UserError(f"{files[0]} cannot be read as a tokenizer: {error}") from None
        backend.no_truncation()
        backend.no_padding()
        _add_missing_tokens(backend, settings, name=name)
        # Its threads are of no use to a batch of one, and would not outlive the forks of --workers.
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        added = backend.get_added_tokens_decoder()
        flagged = {token.content for token in added.values() if token.special} | settings.special
        ids = {token.content: index for index, token in added.items()}
        control = {token for token in flagged | control_tokens if token in ids}
        # Adding an existing token again flags it; encode_special_tokens then reads every flagged
        # token as text.
        backend.add_special_tokens([tokenizers.AddedToken(token, special=True) for token in sorted(control)])
        backend.encode_special_tokens = True
        self._backend = backend
        self._settings = settings
        self._serialized = serialized
        self._control_tokens = control_tokens
        self.name = name
        self.files = files
        self.special_tokens: Mapping[str, int] = {
            token: index for token, index in ids.items() if token in control or is_bracketed(token)
        }
        self.vocab_size = max(backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        self.bos_id = self._named_id("bos_token")
        self.eos_id = self._named_id("eos_token")
        self.fingerprint = fingerprint_of(
            "tokenizers", serialized, {"special": sorted(flagged), "bos": self.bos_id, "eos": self.eos_id}
        )

    def _named_id(self, name: str) -> int | None:
        token = self._settings.named.get(name)
        return None if token is None else self._backend.token_to_id(token)

    def encode(self, text: str) -> list[int]:
        """Ids of `text` as plain text."""
        # The fast form skips offsets, which nothing here needs, and takes a fifth of the time.
        return self._backend.encode_batch_fast([text], add_special_tokens=False)[0].ids

    def decode(self, ids: list[int]) -> str:
        """Text of `ids`, control tokens included."""
        return self._backend.decode(ids, skip_special_tokens=False)

    def with_control_tokens(self, tokens: Collection[str]) -> "FastTokenizer":
        """This tokenizer with an `encode` that also reads `tokens` as text."""
        control_tokens = self._control_tokens.union(tokens)
        if control_tokens == self._control_tokens:
            return self
        return FastTokenizer(
            self._serialized,
            self._settings,
            name=self.name,
            files=self.files,
            control_tokens=control_tokens,
        )


def _add_missing_tokens(backend: tokenizers.Tokenizer, settings: TokenizerSettings, *, name: str) -> None:
    """Add the tokens that only tokenizer_config.json declares, as transformers does."""
    missing = [token for token in settings.added if backend.token_to_id(token) is None]
    for token in sorted(missing, key=settings.added.__getitem__):
        special = token in settings.special
        backend.add_tokens([tokenizers.AddedToken(token, special=special, normalized=False)])
        declared, got = settings.added[token], backend.token_to_id(token)
        if declared != got:
            raise UserError(f"{name} would give {token} the id {got}; the files beside it declare {declared}")


def load_fast_tokenizer(path: Path) -> FastTokenizer:
    """The tokenizer of a tokenizer.json and of the files beside it."""
    settings = read_tokenizer_settings(path.parent)
    files = (path, *settings.files)
    tokenizer = FastTokenizer(path.read_bytes(), settings, name=str(path.parent), files=files)
    tokenizer.vocabulary_name = "tokenizer.json"
    return tokenizer
