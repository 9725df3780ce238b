"""What clients send, as token ids: conversations, rendered texts, and ids themselves."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modellink_rm.base.errors import UserError
from modellink_rm.base.log import warn_once
from modellink_rm.conversation import Conversation
from modellink_rm.handlers import conversation_of, make_handler
from modellink_rm.inference.reader import DEFAULT_HANDLER, RESPONSES_HANDLER, STEPS_HANDLER
from modellink_rm.inference.record_tokenizer import RecordTokenizer
from modellink_rm.records import RecordError, check_unicode
from modellink_rm.templates.rendered import RenderedTexts
from modellink_rm.templates.steps import placeholder_ids

Fields = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Encoded:
    """The token ids of one conversation.

    Attributes:
        sequences: int32 [num_tokens] of each response with its prompt, in the order of the request.
        is_truncated: whether tokens were cut.
        step_ends: of the one sequence of a response in steps, where these end; None where sequences are
            scored at their ends.
    """

    sequences: tuple[NDArray[np.int32], ...]
    is_truncated: bool = False
    step_ends: tuple[int, ...] | None = None


class InputReader:
    """Turns what a request holds into token ids. Not for several threads at a time.

    Args:
        inputs: the scorer's template, tokenizer and limits.
        num_ids: rows of the model's embedding.

    Raises:
        UserError: the tokenizer lacks a token that the template needs.
    """

    def __init__(self, inputs: RecordTokenizer, *, num_ids: int) -> None:
        self._inputs, self._num_ids = inputs, num_ids
        self._rendered = RenderedTexts(inputs.template, inputs.tokenizer)
        self._responses = make_handler(RESPONSES_HANDLER, None)
        self._pairs = make_handler(DEFAULT_HANDLER, json.dumps({"system": "system"}))
        self._steps = make_handler(STEPS_HANDLER, json.dumps({"system": "system"}))
        # Of a model that scores steps: what ends one.
        self._end_ids: NDArray[np.int32] | None = None
        if inputs.placeholder is not None:
            self._end_ids = np.array(placeholder_ids(inputs.placeholder, inputs.tokenizer), dtype=np.int32)

    def conversation(self, fields: Fields) -> Encoded:
        """The ids of a record with a prompt and responses, chosen and rejected, or messages to the answer.

        Control tokens that its texts spell stay text.

        Raises:
            RecordError: it cannot be read.
        """
        example = self._inputs.example(self._conversation(fields))
        sequences = tuple(response.input_ids for response in example.responses)
        return Encoded(sequences, example.is_truncated, example.responses[0].step_ends)

    def rendered(
        self,
        text: str,
        *,
        route: str,
        adds_bos: bool = False,
        last_tokens: int | None = None,
        takes_steps: bool = False,
    ) -> Encoded:
        """The ids of a rendered conversation, in which the template's control tokens count.

        Args:
            route: for a warning.
            adds_bos: begin with the template's BOS where the text does not.
            last_tokens: keep so many tokens of the end; -1 for --seq-length.
            takes_steps: whether the route answers the scores of steps, wherever the placeholder stands.

        Raises:
            RecordError: it has no token, or more than --seq-length, or is no Unicode.
        """
        check_unicode(text)
        ids = self._rendered.ids(text, adds_bos=adds_bos)
        if self._end_ids is None and len(ids) and not self._rendered.ends_as_trained(ids):
            warn_once(
                f"{route}: a text does not end as --prompt-type {self._inputs.template.name} ends an answer; "
                "scores are read at the last token, where training read none"
            )
        return self._checked(np.array(ids, dtype=np.int32), last_tokens, takes_steps)

    def answer_text(self, text: str) -> str:
        """A generated answer without the control tokens that end it."""
        return self._rendered.without_closing(text)

    def ids(
        self, ids: Sequence[int], *, last_tokens: int | None = None, takes_steps: bool = False
    ) -> Encoded:
        """Ids as they are given; the other arguments as for a rendered text.

        Raises:
            RecordError: there are none, more than --seq-length, or one that the model does not have.
        """
        if ids and not 0 <= min(ids) <= max(ids) < self._num_ids:
            raise RecordError(f"token ids must lie between 0 and {self._num_ids - 1}")
        return self._checked(np.array(ids, dtype=np.int32), last_tokens, takes_steps)

    def _conversation(self, fields: Fields) -> Conversation:
        if self._end_ids is not None:
            return self._stepwise(fields)
        messages = fields.get("messages")
        if messages is not None:
            if not messages or messages[-1].get("role") != "assistant":
                raise RecordError("messages must end with the answer, a message of the assistant")
            fields = {**fields, "prompt": messages[:-1], "response": messages[-1]}
        handler = self._pairs if fields.get("chosen") is not None else self._responses
        try:
            return conversation_of(handler, fields)
        except UserError as error:
            raise RecordError(str(error)) from None

    def _stepwise(self, fields: Fields) -> Conversation:
        """A prompt and completions, for a model that scores steps.

        Raises:
            RecordError: there are none.
        """
        if fields.get("completions") is None:
            raise RecordError("the model scores steps: give prompt and completions, a list of the steps")
        return conversation_of(self._steps, fields)

    def _checked(self, ids: NDArray[np.int32], last_tokens: int | None, takes_steps: bool) -> Encoded:
        if not len(ids):
            raise RecordError("no tokens")
        if self._end_ids is not None and not takes_steps:
            raise RecordError("the model scores steps: /v1/score and /pooling answer with their scores")
        longest = self._inputs.seq_length
        kept = ids
        if last_tokens is not None:
            kept = ids[-(longest if last_tokens == -1 else last_tokens) :]
        if len(kept) > longest:
            reason = f"{len(kept)} tokens are more than --seq-length {longest}"
            raise RecordError(reason, f"{reason}; truncating a rendered text would cut its answer")
        ends = _ends_of(kept, self._end_ids) if self._end_ids is not None else None
        return Encoded((kept,), is_truncated=len(kept) < len(ids), step_ends=ends)


def _ends_of(ids: NDArray[np.int32], end_ids: NDArray[np.int32]) -> tuple[int, ...]:
    """Where the placeholder's tokens end in a sequence.

    Raises:
        RecordError: they are nowhere in it.
    """
    width = len(end_ids)
    windows = np.lib.stride_tricks.sliding_window_view(ids, width) if len(ids) >= width else ids[:0, None]
    starts = np.flatnonzero((windows == end_ids).all(axis=1))
    if not len(starts):
        raise RecordError("no step: the text that ends one is nowhere in the input")
    return tuple((starts + width - 1).tolist())
