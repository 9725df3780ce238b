"""Files of the run's first Hugging Face directory that a checkpoint keeps, to write such a directory."""

from pathlib import Path

from modellink_rm.base.errors import UserError
from modellink_rm.checkpoint.source import ModelSource

BASE_MODEL_FOLDER = "base_model"
# config.json and what the tokenizers of transformers are made of.
_KEPT = (
    "config.json",
    "generation_config.json",  # of a language model
    "tokenizer*.json",
    "tokenizer.model",
    "tokenization_*.py",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.*",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "README.md",  # its licence goes into the card of an exported model
)


def base_model_files(source: ModelSource) -> dict[str, bytes]:
    """The files to store in a checkpoint, by relative name; empty if the run started with random weights.

    Raises:
        UserError: a file cannot be read.
    """
    if source.hugging_face is not None:
        directory = source.hugging_face.base_model
    elif source.checkpoint is not None:
        directory = source.checkpoint.path / BASE_MODEL_FOLDER
    else:
        return {}
    paths = sorted({path for pattern in _KEPT for path in directory.glob(pattern) if path.is_file()})
    return {f"{BASE_MODEL_FOLDER}/{path.name}": _content(path) for path in paths}


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}, which checkpoints keep a copy of, cannot be read ({error})") from None
