"""Responses in steps to token ids, with the token at which each step is scored."""

import itertools
from array import array

from modellink_rm.base.errors import UserError
from modellink_rm.conversation import Stepwise
from modellink_rm.templates.encode import TokenizedResponses, content_ids, tokenize_responses
from modellink_rm.templates.table import Template
from modellink_rm.tokenizers.tokenizer import Tokenizer


def tokenize_steps(
    conversation: Stepwise, template: Template, tokenizer: Tokenizer, *, placeholder: str
) -> tuple[TokenizedResponses, tuple[int, ...]]:
    """Token ids of a prompt and its response, and the index of each step's last token among all of them.

    Every step is tokenised by itself and followed by the placeholder, as in TRL 1.0 (PRMTrainer.tokenize_row)
    and in ProcessBench's script for its models (code/run_eval_prm_trl.py), so that the ids of a step do not
    depend on the steps after it: a response that is not finished yet has the scores that it will have.
    The template writes the prompt and what opens an answer, and nothing after the last step.

    Args:
        placeholder: the text after each step; a control token counts as one.

    Raises:
        RecordError: the template has no form for a part of the record.
        UserError: the tokenizer lacks a token that the template needs, or has none for the placeholder.
    """
    prompt_ids = tokenize_responses(conversation, template, tokenizer).prompt_ids
    end_ids = placeholder_ids(placeholder, tokenizer)
    pieces = [content_ids(step, template, tokenizer) + end_ids for step in conversation.steps]
    ends = itertools.accumulate((len(piece) for piece in pieces), initial=len(prompt_ids) - 1)
    response_ids = array("i", itertools.chain.from_iterable(pieces))
    return TokenizedResponses(prompt_ids, [response_ids]), tuple(ends)[1:]


def placeholder_ids(placeholder: str, tokenizer: Tokenizer) -> "array[int]":
    """The token ids, int32 ("i"), that end a step; at least one.

    Raises:
        UserError: the tokenizer has none for it, as where it takes line breaks out of texts.
    """
    index = tokenizer.token_to_id(placeholder)
    ids = tokenizer.encode_array(placeholder) if index is None else array("i", [index])
    if not ids:
        raise UserError(
            f"--placeholder-token {placeholder!r} has no token of the tokenizer {tokenizer.name}: give a "
            "text that has one"
        )
    return ids
