"""Records to conversations for scoring, and the choice of the handler that reads them."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from modellink_rm.base.errors import UserError
from modellink_rm.conversation import Conversation
from modellink_rm.handlers import HANDLERS, Handler, conversation_of, make_handler
from modellink_rm.handlers.fields import answer_fields, rated_attributes
from modellink_rm.handlers.stepwise import StepwiseHandler
from modellink_rm.records import BadRecord, Record, RecordError

DEFAULT_HANDLER = "OpenAiMessagesPairwiseHandler"
RESPONSES_HANDLER = "PromptResponseHandler"
STEPS_HANDLER = "StepwiseHandler"
_RESPONSES = ("response", "responses")
# Fields with content for another handler, with the flags that would read them.
OTHER_HANDLERS = {
    "conversations": "--handler-name SharegptStylePairwiseHandler",
    "instruction": "--handler-name AlpacaStylePairwiseHandler",
    "input": "--handler-name AlpacaStylePairwiseHandler",
    "history": """--handler-name AlpacaStylePairwiseHandler --map-keys '{"history": "history"}'""",
    "messages": f"""--handler-name {DEFAULT_HANDLER} --map-keys '{{"prompt": "messages"}}'""",
    "system": f"""--handler-name {DEFAULT_HANDLER} --map-keys '{{"system": "system"}}'""",
}
_OF_PAIRS = dict.fromkeys(("chosen", "rejected"), f"--handler-name {DEFAULT_HANDLER}")
_OF_RESPONSES = dict.fromkeys(_RESPONSES, f"--handler-name {RESPONSES_HANDLER}")


class HandlerNeededError(RecordError):
    """The handler for a record is ambiguous: --handler-name must be given."""


class RecordReader:
    """Reads records with --handler-name; else by their `response` or `responses`; else as in training.

    Args:
        handler_name: as given, or None.
        map_keys: of `handler_name`.
        trained_handler: name of the handler that read the training data; None if unknown.
        trained_map_keys: --map-keys of `trained_handler`.
        scores_steps: the model scores the steps of responses.

    Raises:
        UserError: the handler is unknown, or does not have one of the keys.
    """

    def __init__(
        self,
        handler_name: str | None = None,
        map_keys: str | None = None,
        *,
        trained_handler: str | None = None,
        trained_map_keys: str | None = None,
        scores_steps: bool = False,
    ) -> None:
        self._given = make_handler(handler_name, map_keys) if handler_name is not None else None
        self._trained_name = trained_handler
        self._trained: Handler | None = None
        # A user's file is never run just because a checkpoint names it.
        if trained_handler is not None and trained_handler in HANDLERS:
            self._trained = make_handler(trained_handler, trained_map_keys)
        self._default = make_handler(DEFAULT_HANDLER, None)
        # Its system text is read as by the server's routes and by the handler of responses.
        keys_of_steps = json.dumps({"system": "system"})
        self._steps = make_handler(STEPS_HANDLER, keys_of_steps) if scores_steps else None
        self._responses = make_handler(RESPONSES_HANDLER, None)

    def __call__(self, fields: Mapping[str, Any]) -> Conversation:
        """The conversation of a record.

        Raises:
            HandlerNeededError: --handler-name must say how to read it.
            RecordError: the record cannot be used.
        """
        return conversation_of(self._handler_for(fields), fields)

    def _handler_for(self, fields: Mapping[str, Any]) -> Handler:
        if self._given is not None:
            return self._given
        if self._steps is not None:
            return self._handler_of_steps(self._steps, fields)
        own = answer_fields(self._trained or self._default)
        responses = [name for name in _RESPONSES if name in fields and name not in own]
        if responses and not _has_any(fields, own):
            others = {name: what for name, what in OTHER_HANDLERS.items() if name != "system"}
            check_nothing_is_left(fields, others | _OF_PAIRS, RESPONSES_HANDLER)
            return self._responses
        # A model that was trained on rated responses is also asked which of two is better.
        if self._trained is not None and (_has_any(fields, own) or not rated_attributes(self._trained)):
            return self._trained
        if self._trained is None and self._trained_name is not None:
            reason = f"read by {self._trained_name} in training, which has to be given again"
            raise HandlerNeededError(reason, f"the record was {reason}: --handler-name {self._trained_name}")
        if not _has_any(fields, ("chosen", "rejected", *OTHER_HANDLERS)):
            reason = "neither a response nor chosen and rejected"
            raise HandlerNeededError(reason, f"{reason}: --handler-name says how to read another form")
        check_nothing_is_left(fields, OTHER_HANDLERS | _OF_RESPONSES, DEFAULT_HANDLER)
        return self._default

    def _handler_of_steps(self, steps: Handler, fields: Mapping[str, Any]) -> Handler:
        """The training data's handler; `steps` for completions, unless training read its own from them."""
        if self._trained is None:
            return steps
        own = answer_fields(self._trained) if isinstance(self._trained, StepwiseHandler) else ()
        is_known = _has_any(fields, own) or not _has_any(fields, answer_fields(steps))
        return self._trained if is_known else steps


def check_first(reader: Callable[[Mapping[str, Any]], object], records: Sequence[Record | BadRecord]) -> None:
    """Check that the first valid record does not need --handler-name; the others are likely similar.

    Raises:
        UserError: it does.
    """
    first = next((record for record in records if isinstance(record, Record)), None)
    if first is None:
        return
    try:
        reader(first.fields)
    except HandlerNeededError as error:
        raise UserError(f"{first.place}: {error}") from None
    except RecordError:
        return  # scoring reports what is wrong with it


def _has_any(fields: Mapping[str, Any], names: tuple[str, ...]) -> bool:
    return any(fields.get(name) is not None for name in names)


def check_nothing_is_left(fields: Mapping[str, Any], others: Mapping[str, str], handler: str) -> None:
    """Check that a handler that the user did not choose ignores no field with content.

    Raises:
        HandlerNeededError: it has one.
    """
    for name, flags in others.items():
        if fields.get(name) not in (None, "", [], {}):
            reason = f"field {name!r} is not read by {handler}"
            raise HandlerNeededError(reason, f"{reason}: give {flags}, or leave the field out")
