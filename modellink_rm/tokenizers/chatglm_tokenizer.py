"""The tokenizer of ChatGLM2 and ChatGLM3, without the Python code that comes with it."""

from pathlib import Path

from modellink_rm.base.json_files import read_json_object
from modellink_rm.tokenizers.sentencepiece_tokenizer import SentencePieceTokenizer, open_processor
from modellink_rm.tokenizers.settings_files import has_tokenizer_class, read_tokenizer_settings

# They follow the sentencepiece vocabulary in this order (tokenization_chatglm.py of chatglm3-6b).
SPECIAL_TOKENS = (
    "[MASK]",
    "[gMASK]",
    "[sMASK]",
    "sop",
    "eop",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|observation|>",
)


def is_chatglm_directory(directory: Path) -> bool:
    """True for directories of ChatGLM2 and ChatGLM3, recognised by tokenizer class or model type.

    GLM-4's original directories have the same model type but another tokenizer class.
    """
    if (directory / "tokenizer_config.json").is_file():
        return has_tokenizer_class(directory, "ChatGLMTokenizer")
    path = directory / "config.json"
    return path.is_file() and read_json_object(path).get("model_type") == "chatglm"


def load_chatglm_tokenizer(directory: Path) -> SentencePieceTokenizer:
    """The sentencepiece vocabulary of tokenizer.model followed by ChatGLM's special tokens."""
    path = directory / "tokenizer.model"
    model = path.read_bytes()
    processor = open_processor(model, str(path))
    num_pieces = processor.get_piece_size()
    return SentencePieceTokenizer(
        model,
        added_tokens={token: num_pieces + i for i, token in enumerate(SPECIAL_TOKENS)},
        flagged=frozenset(SPECIAL_TOKENS),
        bos_id=processor.bos_id(),
        eos_id=processor.eos_id(),
        name=str(directory),
        files=(path, *read_tokenizer_settings(directory).files),
    )
