"""Conversations that another program rendered to one text, in which the template's control tokens count."""

from array import array

from modellink_rm.base.errors import UserError
from modellink_rm.conversation import Message, Unranked
from modellink_rm.templates.chat_template import chat_renderer_of
from modellink_rm.templates.chat_tokenizer import ChatTokenizer, chat_tokenizer_of, pattern_of
from modellink_rm.templates.encode import num_closing_tokens, tokenize_responses
from modellink_rm.templates.renderer import control_tokens_of, eos_id_of
from modellink_rm.templates.table import Bos, Eos, Template
from modellink_rm.tokenizers.tokenizer import Tokenizer

_SAMPLE = Unranked(
    system=None, tools="", prompt=(Message("user", "a"),), responses=(Message("assistant", "b"),)
)


class RenderedTexts:
    """Token ids of texts that were rendered with a template, as its senders mean them.

    The template's own control tokens are read as such; any other special token that a text spells stays text.

    Attributes:
        control_tokens: the template's own.
        closing_ids: what the template ends an answer with; the score is read at the last of them.
    """

    def __init__(self, template: Template, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.control_tokens = _control_tokens(template, tokenizer)
        theirs = _read_by_transformers(tokenizer)
        self._encode = theirs.encode if theirs is not None else None
        self._own = pattern_of(tuple(self.control_tokens))
        special = theirs.special if theirs is not None else ()
        self._others = pattern_of(tuple(token for token in special if token not in self.control_tokens))
        self._plain = tokenizer.with_control_tokens(self.control_tokens)
        sample = tokenize_responses(_SAMPLE, template, tokenizer)
        ids = sample.prompt_ids + sample.response_ids[0]
        self.closing_ids = ids[len(ids) - num_closing_tokens(template, tokenizer) :]
        self._bos = _name_of(tokenizer, tokenizer.bos_id) if ids[0] == tokenizer.bos_id else ""

    def ids(self, text: str, *, adds_bos: bool = False) -> "array[int]":
        """Ids, int32 ("i"), of a rendered text.

        Args:
            adds_bos: begin with the BOS where the template does and the text does not.
        """
        if adds_bos and not text.startswith(self._bos):
            text = self._bos + text
        if self._encode is not None and not self._others.search(text):
            # What the sender's own tokenizer makes of it: it was rendered for transformers.
            return array("i", self._encode(text))
        ids = array("i")
        start = 0
        for found in self._own.finditer(text):
            ids += self._plain.encode_array(text[start : found.start()])
            index = self._tokenizer.token_to_id(found[0])
            assert index is not None, found[0]
            ids.append(index)
            start = found.end()
        return ids + self._plain.encode_array(text[start:])

    def without_closing(self, text: str) -> str:
        """An answer's text without the control tokens at its end."""
        found = list(self._own.finditer(text))
        while found and not text[found[-1].end() :].strip():
            text = text[: found.pop().start()]
        return text

    def ends_as_trained(self, ids: "array[int]") -> bool:
        """Whether the last token is the one at which training read its scores."""
        return not self.closing_ids or ids[-1:] == self.closing_ids[-1:]


def _control_tokens(template: Template, tokenizer: Tokenizer) -> frozenset[str]:
    if template.chat_template:
        found = chat_renderer_of(template, tokenizer).control_tokens | {template.reward_token}
        return frozenset(token for token in found if tokenizer.token_to_id(token) is not None)
    slots = (*template.prefix, *template.user, *template.assistant, *template.system)
    named = control_tokens_of(template, tokenizer)
    if any(isinstance(slot, Bos) for slot in slots):
        named.add(_name_of(tokenizer, tokenizer.bos_id))
    if template.efficient_eos or any(isinstance(slot, Eos) for slot in slots):
        named.add(_name_of(tokenizer, eos_id_of(template, tokenizer)))
    return frozenset(named - {""})


def _name_of(tokenizer: Tokenizer, index: int | None) -> str:
    return next((token for token, own in tokenizer.special_tokens.items() if own == index), "")


def _read_by_transformers(tokenizer: Tokenizer) -> ChatTokenizer | None:
    """The tokenizer as senders have it; None if transformers cannot read it."""
    try:
        return chat_tokenizer_of(tokenizer)
    except UserError:
        return None
