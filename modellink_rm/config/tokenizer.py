"""Flags that choose the tokenizer; preprocessing, training and scoring share them."""

from dataclasses import dataclass

from modellink_rm.base.errors import UserError
from modellink_rm.base.flags import flag

SUPPORTED_TYPES = ("PretrainedFromHF", "GPTSentencePieceTokenizer")
# Megatron's others are refused in a line of their own.
TYPES = (*SUPPORTED_TYPES, "BertWordPieceLowerCase", "BertWordPieceCase", "GPT2BPETokenizer")


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """Tokenizer."""

    tokenizer_type: str = flag(
        "PretrainedFromHF",
        choices=TYPES,
        metavar="{" + ",".join(SUPPORTED_TYPES) + "}",
        level="rare",
        help="PretrainedFromHF reads a Hugging Face directory, GPTSentencePieceTokenizer a tokenizer.model",
    )
    tokenizer_name_or_path: str | None = flag(
        None, help="directory of a Hugging Face tokenizer on this machine", metavar="DIR"
    )
    tokenizer_model: str | None = flag(
        None,
        level="rare",
        help="a sentencepiece tokenizer.model, instead of a directory",
        metavar="FILE",
    )
    tokenizer_not_use_fast: bool = flag(
        False, level="rare", help="read tokenizer.model with sentencepiece even if there is a tokenizer.json"
    )
    trust_remote_code: bool = flag(
        False, level="rare", help="let a tokenizer that comes with its own Python code run that code"
    )
    tokenizer_padding_side: str = flag(
        "right",
        choices=("left", "right"),
        level="hidden",
        help="accepted without effect: nothing is padded",
    )

    def __post_init__(self) -> None:
        if self.tokenizer_type not in SUPPORTED_TYPES:
            supported = " or ".join(SUPPORTED_TYPES)
            raise UserError(f"--tokenizer-type {self.tokenizer_type} is not supported; use {supported}")
        if self.tokenizer_type == "GPTSentencePieceTokenizer" and self.tokenizer_model is None:
            raise UserError("--tokenizer-type GPTSentencePieceTokenizer needs --tokenizer-model")
