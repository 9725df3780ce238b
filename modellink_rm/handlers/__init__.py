"""Handlers: from the fields of a record to a conversation, one for each style of data."""

from modellink_rm.handlers.choice import conversation_of, make_handler, missing_fields, prompt_of
from modellink_rm.handlers.fields import Handler, PairwiseHandler, ResponsesHandler
from modellink_rm.handlers.registry import HANDLERS

__all__ = [
    "HANDLERS",
    "Handler",
    "PairwiseHandler",
    "ResponsesHandler",
    "conversation_of",
    "make_handler",
    "missing_fields",
    "prompt_of",
]
