"""Special tokens, as declared in the small json files beside a vocabulary."""

from dataclasses import dataclass
from pathlib import Path

from modellink_rm.base.errors import UserError
from modellink_rm.base.json_files import read_json_object

SETTINGS_FILES = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
NAMED_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")
_LISTS_OF_TOKENS = ("additional_special_tokens", "extra_special_tokens")


@dataclass(frozen=True)
class TokenizerSettings:
    """Special tokens as a Hugging Face directory declares them.

    Attributes:
        named: name among NAMED_TOKENS -> token; absent if none is declared.
        added: token -> id, from added_tokens_decoder and added_tokens.json.
        special: tokens that are flagged special or named as such.
        files: the files that were read.
    """

    named: dict[str, str]
    added: dict[str, int]
    special: frozenset[str]
    files: tuple[Path, ...]


def read_tokenizer_settings(directory: Path) -> TokenizerSettings:
    """What tokenizer_config.json, special_tokens_map.json and added_tokens.json declare, if they exist.

    Raises:
        UserError: one is damaged, or has a value that it cannot have.
    """
    files = tuple(directory / name for name in SETTINGS_FILES if (directory / name).is_file())
    try:
        return _settings_in(files)
    except UserError:
        raise
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        names = " or ".join(path.name for path in files)
        reason = " ".join(str(error).split())
        raise UserError(f"{directory}: {names} has a value that it cannot have ({reason})") from None


def _settings_in(files: tuple[Path, ...]) -> TokenizerSettings:
    content = {path.name: read_json_object(path) for path in files}
    config = content.get("tokenizer_config.json", {})
    # After a null in tokenizer_config.json the older file decides, as in transformers.
    declared = content.get("special_tokens_map.json", {}) | {k: v for k, v in config.items() if v is not None}
    named = {}
    for key in NAMED_TOKENS:
        token = _token_text(declared.get(key))
        if token is not None:
            named[key] = token
    added = {str(token): int(index) for token, index in content.get("added_tokens.json", {}).items()}
    special = set(named.values())
    for index, entry in config.get("added_tokens_decoder", {}).items():
        token = _token_text(entry)
        if token is not None:
            added[token] = int(index)
            if isinstance(entry, dict) and entry.get("special"):
                special.add(token)
    for key in _LISTS_OF_TOKENS:
        entries = declared.get(key) or []
        entries = entries.values() if isinstance(entries, dict) else entries
        special.update(token for token in map(_token_text, entries) if token is not None)
    for token in (*added, *special):
        token.encode()  # half of a surrogate pair is no text
    return TokenizerSettings(named=named, added=added, special=frozenset(special), files=files)


def has_tokenizer_class(directory: Path, name: str) -> bool:
    """Whether tokenizer_config.json names that class, of transformers or of code beside it."""
    path = directory / "tokenizer_config.json"
    if not path.is_file():
        return False
    config = read_json_object(path)
    return name in (config.get("tokenizer_class"), *_auto_classes(config.get("auto_map")))


def _auto_classes(auto_map: object) -> list[str]:
    """Class names in an auto_map: {"AutoTokenizer": ["tokenization_chatglm.ChatGLMTokenizer", null]}."""
    entry = auto_map.get("AutoTokenizer") if isinstance(auto_map, dict) else None
    entries = entry if isinstance(entry, list) else [entry]
    return [str(name).rpartition(".")[2] for name in entries]


def _token_text(entry: object) -> str | None:
    """The token of an entry, which is the token itself or an object that contains it."""
    if isinstance(entry, dict):
        entry = entry.get("content")
    return entry if isinstance(entry, str) and entry else None
