"""Records to the token ids of prompts, by the handlers and templates of preprocessing."""

from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modellink_rm.conversation import Unranked
from modellink_rm.handlers import Handler, make_handler, prompt_of
from modellink_rm.inference.reader import (
    DEFAULT_HANDLER,
    OTHER_HANDLERS,
    RESPONSES_HANDLER,
    HandlerNeededError,
    check_nothing_is_left,
)
from modellink_rm.records import BadRecord, Record, RecordError, check_unicode
from modellink_rm.templates.encode import tokenize_responses
from modellink_rm.templates.table import Template
from modellink_rm.tokenizers.tokenizer import Tokenizer


class PromptReader:
    """The handler that reads the prompt of a record: that of --handler-name, or one that fits its fields.

    Raises:
        UserError: the handler is unknown, or does not have one of the keys.
    """

    def __init__(self, handler_name: str | None, map_keys: str | None) -> None:
        self._given = make_handler(handler_name, map_keys) if handler_name is not None else None
        self._prompts = make_handler(RESPONSES_HANDLER, None)
        self._pairs = make_handler(DEFAULT_HANDLER, None)

    def handler_for(self, fields: Mapping[str, Any]) -> Handler:
        """The handler of a record.

        Raises:
            HandlerNeededError: --handler-name must say how to read it.
        """
        if self._given is not None:
            return self._given
        others = {name: flags for name, flags in OTHER_HANDLERS.items() if name != "system"}
        if fields.get("prompt") is None:
            check_nothing_is_left(fields, others, RESPONSES_HANDLER)
            if fields.get("chosen") is None or fields.get("rejected") is None:
                reason = "no prompt"
                raise HandlerNeededError(reason, f"{reason}: --handler-name says how to read another form")
            return self._pairs  # both begin with the prompt
        check_nothing_is_left(fields, others, RESPONSES_HANDLER)
        return self._prompts


@dataclass(frozen=True, slots=True)
class Prompt:
    """A record whose prompt can be answered.

    Attributes:
        handler: that read it.
        conversation: without responses.
        ids: int32 ("i"), with the opener of the answer.
    """

    handler: Handler
    conversation: Unranked
    ids: "array[int]"


@dataclass(frozen=True, slots=True)
class NotAnswered:
    """A record that cannot be used.

    Attributes:
        message: its place and what is wrong with it, in one line.
    """

    message: str


@dataclass(frozen=True, kw_only=True)
class PromptTokenizer:
    """A reader, a template and a tokenizer.

    Attributes:
        max_prompt_tokens: longest prompt that leaves room for an answer; None for any.
        num_ids: rows of the model's embedding; None if unknown.
    """

    reader: PromptReader
    template: Template
    tokenizer: Tokenizer
    max_prompt_tokens: int | None = None
    num_ids: int | None = None

    def __call__(self, record: Record | BadRecord) -> Prompt | NotAnswered:
        """The ids of a record's prompt, or why there are none."""
        if isinstance(record, BadRecord):
            return NotAnswered(f"{record.place}: {record.message}")
        try:
            handler = self.reader.handler_for(record.fields)
            conversation = prompt_of(handler, record.fields)
            return Prompt(handler, conversation, self.ids_of(conversation))
        except RecordError as error:
            return NotAnswered(f"{record.place}: {error}")

    def ids_of(self, conversation: Unranked) -> "array[int]":
        """The ids, int32 ("i"), of a prompt with the opener of the answer.

        Raises:
            RecordError: the template has no form for a part of it, a text is no Unicode, it is too long, or
                the model does not have one of its tokens.
        """
        texts = [conversation.system or "", conversation.tools, *(one.content for one in conversation.prompt)]
        for text in texts:
            check_unicode(text)
        ids = tokenize_responses(conversation, self.template, self.tokenizer).prompt_ids
        if not ids:
            raise RecordError("no tokens", "the prompt has no tokens at all")
        if self.max_prompt_tokens is not None and len(ids) > self.max_prompt_tokens:
            raise RecordError(
                "prompt too long",
                f"the prompt has {len(ids):,} tokens, and the model leaves {self.max_prompt_tokens:,} beside "
                "--max-new-tokens",
            )
        if self.num_ids is not None and max(ids) >= self.num_ids:
            raise RecordError(
                "a token that the model does not have",
                f"the prompt has the token id {max(ids)}, and the model {self.num_ids} embedding rows: give "
                "the tokenizer that belongs to the weights",
            )
        return ids
