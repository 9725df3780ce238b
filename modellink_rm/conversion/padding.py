"""The token that pads a batch: transformers reads a score at the last token that is not this one."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from modellink_rm.base.errors import UserError
from modellink_rm.tokenizers.tokenizer import Tokenizer

_NEW_NAMES = ("<|pad|>", "[PAD]", "<pad>", "<|reward_model_pad|>")
# A text that few vocabularies have: whether it becomes unknown tokens shows that texts can.
_RARE_TEXT = "\U000f1e9a\u0f0a\U0001f9ec"


@dataclass(frozen=True, kw_only=True)
class PadToken:
    """The padding token of a written directory.

    Attributes:
        is_new: the vocabulary had none that is never scored, and gets this one.
        added_rows: rows that the embedding gets for it; 0 if it has one that no other token uses.
    """

    token: str
    index: int
    is_new: bool
    added_rows: int = 0


def choose_pad_token(
    tokenizer: Tokenizer,
    *,
    declared: str | None,
    config: Mapping[str, Any],
    used_ids: Iterable[int],
    num_rows: int,
) -> PadToken:
    """A token that no rendered response ends with.

    Taken, in this order: the declared one, config.json's, a control token that is called pad; else a new one.

    Args:
        declared: pad_token of the tokenizer's files.
        config: the base model's config.json.
        used_ids: ids of rendered conversations, with all control tokens that the template writes.
        num_rows: of the embedding.
    """
    by_id = {index: token for token, index in tokenizer.special_tokens.items()}
    called_pad = sorted((token for token in tokenizer.special_tokens if "pad" in token.lower()), key=len)
    names = [declared, by_id.get(_whole(config.get("pad_token_id"))), *called_pad]
    # The end of a truncated response may be any token of a text.
    scored = {*used_ids, *tokenizer.encode(_RARE_TEXT), tokenizer.bos_id, tokenizer.eos_id}
    for name in names:
        index = tokenizer.token_to_id(name) if name is not None else None
        if name is not None and index is not None and index not in scored and index < num_rows:
            return PadToken(token=name, index=index, is_new=False)
    name = next(
        name for name in _NEW_NAMES if tokenizer.token_to_id(name) is None and len(tokenizer.encode(name)) > 1
    )
    index = tokenizer.vocab_size
    return PadToken(token=name, index=index, is_new=True, added_rows=max(index + 1 - num_rows, 0))


def existing_pad_token(tokenizer: Tokenizer, *, declared: str | None, config: Mapping[str, Any]) -> PadToken:
    """The token that pads batches of a language model: the declared one, config.json's, else the end of text.

    A language model gets no new token, which it would give a probability. The arguments are those of
    `choose_pad_token`.
    """
    by_id = {index: token for token, index in tokenizer.special_tokens.items()}
    ends = (config.get("pad_token_id"), tokenizer.eos_id)
    for name in (declared, *(by_id.get(_whole(index)) for index in ends)):
        index = tokenizer.token_to_id(name) if name is not None else None
        if name is not None and index is not None:
            return PadToken(token=name, index=index, is_new=False)
    raise UserError(f"the tokenizer {tokenizer.name} has no token that ends a text, to pad batches with")


def _whole(value: Any) -> int:
    return value if type(value) is int else -1
