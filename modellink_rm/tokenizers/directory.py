"""The files of a Hugging Face directory, which no command may write over."""

from pathlib import Path

from modellink_rm.config.tokenizer import TokenizerConfig

# By name: other files in such a directory may well be what an earlier command wrote.
_PATTERNS = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "vocab.*",
    "merges.txt",
    "*.model",
    "*.py",
    "*.safetensors",
    "*.safetensors.index.json",
    "pytorch_model*",
    # Of exports of this package.
    "inference_contract.json",
    "modellink_rm_checksums.json",
)


def hugging_face_files(directory: Path) -> list[Path]:
    """The model and the tokenizer in a directory, as far as they are there."""
    return [path for pattern in _PATTERNS for path in directory.glob(pattern)]


def tokenizer_files(config: TokenizerConfig) -> list[Path]:
    """The files that these flags read."""
    given = [config.tokenizer_name_or_path, config.tokenizer_model]
    paths = [Path(path) for path in given if path is not None]
    return [file for path in paths for file in (hugging_face_files(path) if path.is_dir() else [path])]
