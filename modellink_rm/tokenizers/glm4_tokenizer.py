"""The tokenizer of GLM-4 (ChatGLM4Tokenizer), without the Python code that comes with it.

Its tokenizer.model is a file of tiktoken: a line for each token with its bytes in base64 and its rank, which
is its id. GLM-4-0414 and later models have a tokenizer.json instead.
"""

import base64
import binascii
import dataclasses
from pathlib import Path

import tokenizers

from modellink_rm.base.errors import UserError
from modellink_rm.tokenizers.fast_tokenizer import FastTokenizer
from modellink_rm.tokenizers.settings_files import has_tokenizer_class, read_tokenizer_settings

# They follow the ranks in this order (tokenization_chatglm.py of glm-4-9b-chat).
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "[MASK]",
    "[gMASK]",
    "[sMASK]",
    "<sop>",
    "<eop>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|observation|>",
    "<|begin_of_image|>",
    "<|end_of_image|>",
    "<|begin_of_video|>",
    "<|end_of_video|>",
)
# How text is divided before tokens are looked up: pat_str of the same file.
_PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def is_glm4_directory(directory: Path) -> bool:
    """True for directories of the original GLM-4 models, recognised by their tokenizer class."""
    return has_tokenizer_class(directory, "ChatGLM4Tokenizer")


def load_glm4_tokenizer(directory: Path) -> FastTokenizer:
    """The ranks of tokenizer.model followed by GLM-4's special tokens.

    Raises:
        UserError: the file does not hold the ranks 0, 1, 2 ... of tokens.
    """
    path = directory / "tokenizer.model"
    backend = byte_pair_encoding(read_ranks(path), _PIECES)
    backend.add_special_tokens([tokenizers.AddedToken(token, special=True) for token in SPECIAL_TOKENS])
    settings = read_tokenizer_settings(directory)
    end = SPECIAL_TOKENS[0]
    settings = dataclasses.replace(
        settings,
        named={"eos_token": end, "pad_token": end, **settings.named},
        special=settings.special.union(SPECIAL_TOKENS),
    )
    files = (path, *settings.files)
    return FastTokenizer(backend.to_str().encode(), settings, name=str(directory), files=files)


def read_ranks(path: Path) -> dict[bytes, int]:
    """Token -> rank, in the order of the ranks.

    Raises:
        UserError: a line is not a token in base64 and its rank, or a rank is missing.
    """
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error):
            raise UserError(f"{path}:{number} is not a token in base64 and its rank") from None
    if sorted(ranks.values()) != list(range(len(ranks))):
        raise UserError(f"{path} is damaged: the ranks of its {len(ranks):,} tokens are not 0, 1, 2 ...")
    return dict(sorted(ranks.items(), key=lambda item: item[1]))


def byte_pair_encoding(ranks: dict[bytes, int], pieces: str) -> tokenizers.Tokenizer:
    """A tokenizer with tiktoken's ids: it merges the pair of neighbours whose joined bytes rank lowest.

    Args:
        ranks: in the order of the ranks.
        pieces: a regular expression; nothing is merged across its matches.
    """
    letters = _letters_of_bytes()
    written = {token: "".join([letters[byte] for byte in token]) for token in ranks}
    merges = [
        (written[token[:at]], written[token[at:]]) for token in ranks for at in _places_to_join(token, ranks)
    ]
    vocabulary = {written[token]: rank for token, rank in ranks.items()}
    # A piece that is a token is that token, even if no merges lead to it.
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, merges, ignore_merges=True))
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(pieces), behavior="isolated")
    as_letters = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([split, as_letters])
    backend.decoder = tokenizers.decoders.ByteLevel()
    return backend


def _places_to_join(token: bytes, ranks: dict[bytes, int]) -> list[int]:
    """Where two tokens meet that join to this one, those of lower rank first."""
    places = [at for at in range(1, len(token)) if token[:at] in ranks and token[at:] in ranks]
    return sorted(places, key=lambda at: (ranks[token[:at]], ranks[token[at:]]))


def _letters_of_bytes() -> list[str]:
    """The letter for each byte in the tokenizers library's byte-level vocabularies, as GPT-2 chose them."""
    shown = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in shown else chr(next(others)) for byte in range(256)]
