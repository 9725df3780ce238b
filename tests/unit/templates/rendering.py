"""The ids of a prompt, and of an answer, each alone."""

from array import array
from collections.abc import Sequence

from modellink_rm.conversation import Message, Unranked
from modellink_rm.templates.chat_template import chat_renderer_of
from modellink_rm.templates.encode import tokenize_responses
from modellink_rm.templates.table import Template
from modellink_rm.tokenizers.tokenizer import Tokenizer

_ANSWER = Message("assistant", "a")
_QUESTION = Message("user", "q")


def encode_prompt(
    system: str | None, tools: str, turns: Sequence[Message], template: Template, tokenizer: Tokenizer
) -> "array[int]":
    """Ids of everything before a response."""
    if template.chat_template:
        return chat_renderer_of(template, tokenizer).response_ids(system, tools, turns, ())[0]
    asked = Unranked(system, tools, tuple(turns), (_ANSWER,))
    return tokenize_responses(asked, template, tokenizer).prompt_ids


def encode_response(message: Message, template: Template, tokenizer: Tokenizer) -> "array[int]":
    """Ids of an answer to a short question."""
    asked = Unranked(None, "", (_QUESTION,), (message,))
    return tokenize_responses(asked, template, tokenizer).response_ids[0]
