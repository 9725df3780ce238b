"""A tokenizer as chat templates need it: with transformers where that reads it, else by itself."""

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modellink_rm.base.errors import UserError
from modellink_rm.base.json_files import read_json_object
from modellink_rm.records import shortened
from modellink_rm.tokenizers.chatglm_tokenizer import is_chatglm_directory
from modellink_rm.tokenizers.glm4_tokenizer import is_glm4_directory
from modellink_rm.tokenizers.tokenizer import Tokenizer

NAME = "hf"
_FILE = "chat_template.jinja"


@dataclass(frozen=True, kw_only=True)
class ChatTokenizer:
    """What a chat template needs of its tokenizer.

    Attributes:
        chat_template: the one that comes with it, None if it has none.
        variables: names of special tokens, such as bos_token, and their texts.
        special: special tokens, the longest first.
        cuts: added tokens before which a text may be cut in two: the ids of what follows do not depend on
            what comes before.
        added: all added tokens.
        id_of: id of a special token.
        encode: ids of a rendered text, in which control tokens count; None if such a text is to be divided
            at the special tokens.
    """

    chat_template: str | None
    variables: Mapping[str, Any]
    special: tuple[str, ...]
    cuts: frozenset[str]
    added: tuple[str, ...]
    id_of: Callable[[str], int | None]
    encode: Callable[[str], list[int]] | None = None


def carries_chat_template(tokenizer: Tokenizer) -> bool:
    """Whether the tokenizer's directory has a chat template, by its files alone."""
    directory = _directory(tokenizer)
    config = directory / "tokenizer_config.json"
    return (directory / _FILE).is_file() or (
        config.is_file() and bool(read_json_object(config).get("chat_template"))
    )


@functools.lru_cache(maxsize=8)
def chat_tokenizer_of(tokenizer: Tokenizer) -> ChatTokenizer:
    """The tokenizer with its chat template.

    Raises:
        UserError: transformers cannot read it, or it has several chat templates and none is the default.
    """
    directory = _directory(tokenizer)
    # sentencepiece's own ids, and the tokenizers that transformers reads with their own code only
    is_ours = (
        Path(tokenizer.name).is_file() or is_chatglm_directory(directory) or is_glm4_directory(directory)
    )
    return _by_itself(tokenizer, directory) if is_ours else _by_transformers(tokenizer, directory)


def pattern_of(tokens: tuple[str, ...]) -> re.Pattern[str]:
    """Matches any of the tokens, the longest first."""
    return re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True))) or "(?!)")


def _directory(tokenizer: Tokenizer) -> Path:
    path = Path(tokenizer.name)
    return path.parent if path.is_file() else path


def _by_itself(tokenizer: Tokenizer, directory: Path) -> ChatTokenizer:
    tokens = {index: token for token, index in tokenizer.special_tokens.items()}
    named = {"bos_token": tokenizer.bos_id, "eos_token": tokenizer.eos_id}
    special = tuple(tokenizer.special_tokens)
    return ChatTokenizer(
        chat_template=_template_in(directory),
        variables={name: tokens[index] for name, index in named.items() if index in tokens},
        special=tuple(sorted(special, key=len, reverse=True)),
        cuts=frozenset(special),
        added=special,
        id_of=tokenizer.token_to_id,
    )


def _template_in(directory: Path) -> str | None:
    """The chat template in a directory's files, as transformers looks for it."""
    if (directory / _FILE).is_file():
        return (directory / _FILE).read_text(encoding="utf-8")
    config = directory / "tokenizer_config.json"
    found = read_json_object(config).get("chat_template") if config.is_file() else None
    if isinstance(found, list):
        named = {entry.get("name"): entry.get("template") for entry in found if isinstance(entry, dict)}
        found = named.get("default")
    return found if isinstance(found, str) and found else None


def _by_transformers(tokenizer: Tokenizer, directory: Path) -> ChatTokenizer:
    own = _read_by_transformers(tokenizer, directory)
    added = {token.content: token for token in own.added_tokens_decoder.values()}
    special = {text for text, token in added.items() if token.special}.union(own.all_special_tokens)
    try:
        chat_template = own.get_chat_template() if own.chat_template else None
    except ValueError as error:  # it has several, none of them the default
        raise UserError(f"--prompt-type {NAME}: {tokenizer.name}: {shortened(str(error))}") from None
    if not isinstance(chat_template, str | None):
        raise UserError(f"--prompt-type {NAME}: the chat template of {tokenizer.name} is no text")
    return ChatTokenizer(
        chat_template=chat_template,
        variables=dict(own.special_tokens_map),
        special=tuple(sorted(special, key=len, reverse=True)),
        cuts=frozenset(
            text
            for text, token in added.items()
            if own.is_fast and not (token.lstrip or token.normalized or token.single_word)
        ),
        added=tuple(added),
        id_of=own.convert_tokens_to_ids,
        # Like apply_chat_template, which tokenises the rendered text.
        encode=lambda text: own(text, add_special_tokens=False)["input_ids"],
    )


def _read_by_transformers(tokenizer: Tokenizer, directory: Path) -> Any:
    if not directory.is_dir():
        raise UserError(f"--prompt-type {NAME} needs --tokenizer-name-or-path DIR, a directory")
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(
            str(directory), local_files_only=True, trust_remote_code=tokenizer.trusts_its_code
        )
    except Exception as error:  # transformers raises whatever the tokenizer's own code raises
        lines = str(error).strip().splitlines() or [type(error).__name__]
        hint = "" if tokenizer.trusts_its_code else "; --trust-remote-code would run code that comes with it"
        raise UserError(
            f"--prompt-type {NAME}: transformers cannot read the tokenizer {directory}: {lines[0]}{hint}"
        ) from None
