"""Where an answer ends, and its text."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from modellink_rm.base.json_files import read_json_object
from modellink_rm.templates.rendered import RenderedTexts
from modellink_rm.templates.table import Template
from modellink_rm.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class AnswerEnds:
    """How answers of a model end.

    Attributes:
        end_ids: tokens any of which ends an answer, ascending.
        closing_ids: what the template writes between the text of an answer and the first of them.
    """

    tokenizer: Tokenizer
    end_ids: tuple[int, ...]
    closing_ids: tuple[int, ...]

    def num_tokens(self, ids: Sequence[int]) -> int:
        """How many tokens stand before the first that ends the answer; all where none does."""
        return next((place for place, index in enumerate(ids) if index in self.end_ids), len(ids))

    def text_of(self, ids: Sequence[int]) -> str:
        """The text of an answer's tokens, without its end; other control tokens are spelled out."""
        kept = list(ids[: self.num_tokens(ids)])
        closing = list(self.closing_ids)
        if closing and len(kept) < len(ids) and kept[-len(closing) :] == closing:
            kept = kept[: -len(closing)]
        # A model may have more rows than its tokenizer has tokens.
        return self.tokenizer.decode([index for index in kept if index < self.tokenizer.vocab_size])


def answer_ends(template: Template, tokenizer: Tokenizer, directory: Path) -> AnswerEnds:
    """The ends of answers: those of the template, of the tokenizer and of the model's files."""
    closing = list(RenderedTexts(template, tokenizer).closing_ids)
    named = [tokenizer.token_to_id(word) for word in template.stop_words]
    ends = {tokenizer.eos_id, *named, *_eos_of_files(directory)} - {None}
    controls = {*tokenizer.special_tokens.values(), *ends}
    place = next((place for place, index in enumerate(closing) if index in controls), len(closing))
    ends |= set(closing[place : place + 1])
    return AnswerEnds(
        tokenizer=tokenizer,
        end_ids=tuple(sorted(index for index in ends if index is not None)),
        closing_ids=tuple(closing[:place]),
    )


def _eos_of_files(directory: Path) -> set[int | None]:
    """eos_token_id of generation_config.json, else of config.json."""
    for name in ("generation_config.json", "config.json"):
        path = directory / name
        found = read_json_object(path).get("eos_token_id") if path.is_file() else None
        values = found if isinstance(found, list) else [found]
        ids: set[int | None] = {value for value in values if type(value) is int and value >= 0}
        if ids:
            return ids
    return set()
