"""Records to examples for scoring, with the functions that preprocessing uses."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from modellink_rm.base.log import warn_once
from modellink_rm.conversation import Conversation, Stepwise
from modellink_rm.dataset.example import Example, Response
from modellink_rm.dataset.truncation import truncate
from modellink_rm.inference.reader import RecordReader
from modellink_rm.inference.result import NotScored
from modellink_rm.records import BadRecord, Record, RecordError, check_unicode
from modellink_rm.templates.encode import num_closing_tokens, tokenize_responses
from modellink_rm.templates.steps import tokenize_steps
from modellink_rm.templates.table import Template
from modellink_rm.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class ScoringInput:
    """A record that can be scored, with its ids.

    Attributes:
        place: where it comes from, as messages name it.
    """

    place: str
    conversation: Conversation
    example: Example


@dataclass(frozen=True, slots=True)
class PlacedConversation:
    """A conversation that was not read by a handler, and where it comes from, as messages name it."""

    place: str
    conversation: Conversation


@dataclass(frozen=True, kw_only=True)
class RecordTokenizer:
    """A handler, a template and a tokenizer, as the checkpoint or the flags say.

    Attributes:
        seq_length: longest prompt + response, in tokens.
        truncation: "right" or "keep-ends".
        padding_id: the token that transformers' class of this model passes over at the end of the ids, for a
            warning; None for none.
        placeholder: the text after each step, for a model that scores steps; None for one of whole responses.
        num_ids: rows of the model's embedding; None if that is not known.
    """

    reader: RecordReader
    template: Template
    tokenizer: Tokenizer
    seq_length: int
    truncation: str
    padding_id: int | None = None
    placeholder: str | None = None
    num_ids: int | None = None

    def __call__(self, item: Record | BadRecord | PlacedConversation) -> ScoringInput | NotScored:
        """The ids of an item's responses, each with its prompt, or why there are none."""
        if isinstance(item, BadRecord):
            return NotScored(item.reason, f"{item.place}: {item.message}")
        try:
            conversation = self.reader(item.fields) if isinstance(item, Record) else item.conversation
            return ScoringInput(item.place, conversation, self.example(conversation))
        except RecordError as error:
            return NotScored(error.reason, f"{item.place}: {error}")

    def _checked(self, example: Example) -> Example:
        """The example, if the model has a row for each of its ids; zeros that pad it would hide others.

        Raises:
            RecordError: there is one.
        """
        largest = max(int(one.input_ids.max()) for one in example.responses)
        if self.num_ids is not None and largest >= self.num_ids:
            reason = "a token that the model does not have"
            raise RecordError(
                reason,
                f"{reason}: id {largest}, and it has {self.num_ids} embedding rows; give the tokenizer that "
                "belongs to the weights",
            )
        return example

    def example(self, conversation: Conversation) -> Example:
        """The ids of a conversation, truncated as in training.

        Raises:
            RecordError: the template has no form for a part of it, a response has no token, a text is no
                Unicode, or the model does not have one of its tokens.
        """
        messages = (*conversation.prompt, *conversation.responses)
        for text in (conversation.system or "", conversation.tools, *(one.content for one in messages)):
            check_unicode(text)
        if self.placeholder is not None:
            return self._checked(self._example_of_steps(conversation, self.placeholder))
        if isinstance(conversation, Stepwise):
            reason = "a response in steps"
            raise RecordError(reason, f"{reason}, which a model of whole responses does not score")
        tokens = tokenize_responses(conversation, self.template, self.tokenizer)
        return self._checked(self.example_of_ids(tokens.prompt_ids, tokens.response_ids))

    def _example_of_steps(self, conversation: Conversation, placeholder: str) -> Example:
        """The ids of a conversation for a model that scores steps, truncated as in training.

        Raises:
            RecordError: it is not in steps, has none left, or the template has no form for a part of it.
        """
        if not isinstance(conversation, Stepwise):
            reason = "a response that is not in steps"
            raise RecordError(
                reason,
                f"{reason}: the model scores steps; give a prompt and completions, a list of its steps",
            )
        tokens, ends = tokenize_steps(conversation, self.template, self.tokenizer, placeholder=placeholder)
        (response_ids,) = tokens.response_ids
        response = Response(
            input_ids=np.array(tokens.prompt_ids + response_ids, dtype=np.int32),
            num_prompt_tokens=len(tokens.prompt_ids),
            step_ends=ends,
        )
        kept, is_truncated = truncate((response,), self.seq_length, self.truncation, num_closing_tokens=0)
        if not kept[0].step_ends:
            reason = "no step within --seq-length"
            raise RecordError(reason, f"{reason} {self.seq_length}: the first one ends after it")
        return Example(index=0, responses=kept, is_truncated=is_truncated)

    def example_of_ids(self, prompt_ids: Sequence[int], response_ids: Sequence[Sequence[int]]) -> Example:
        """A prompt and its responses, with the tokens that the template adds, truncated as in training."""
        prompt = np.array(prompt_ids, dtype=np.int32)
        responses = tuple(
            Response(
                input_ids=np.concatenate([prompt, np.array(ids, dtype=np.int32)]),
                num_prompt_tokens=len(prompt),
            )
            for ids in response_ids
        )
        kept, is_truncated = truncate(
            responses,
            self.seq_length,
            self.truncation,
            num_closing_tokens=num_closing_tokens(self.template, self.tokenizer),
        )
        if self.padding_id is not None and any(one.input_ids[-1] == self.padding_id for one in kept):
            warn_once(
                f"scores are read at the last token, {self.padding_id}, which is config.json's pad_token_id: "
                "transformers' own class reads them before it"
            )
        return Example(index=0, responses=kept, is_truncated=is_truncated)
