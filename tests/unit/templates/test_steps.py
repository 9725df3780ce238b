"""Responses in steps to token ids, by hand and independent of the steps that follow."""

import dataclasses
import itertools

import pytest

from modellink_rm.base.errors import UserError
from modellink_rm.conversation import Message, Stepwise
from modellink_rm.templates.choice import find_template
from modellink_rm.templates.encode import tokenize_responses
from modellink_rm.templates.steps import tokenize_steps
from tests.unit.conftest import load_directory

STEPS = ("the capital is Paris.", "", "I am fine\nno")


def stepwise(*steps):
    return Stepwise(None, "", (Message("user", "hello there"),), steps)


@pytest.fixture(params=["llama2", "qwen"])
def tools(request, fast_directory):
    tokenizer = load_directory(fast_directory)
    try:
        template = find_template(request.param, tokenizer)
        tokenize_responses(stepwise("a"), template, tokenizer)
    except ValueError:
        pytest.skip("the tokenizer lacks its tokens")
    return template, tokenizer


@pytest.mark.parametrize("placeholder", ["\n", " so far", "\n\n"])
def test_every_step_is_tokenised_alone_and_ends_in_the_placeholder(tools, placeholder):
    template, tokenizer = tools
    tokens, ends = tokenize_steps(stepwise(*STEPS), template, tokenizer, placeholder=placeholder)
    end = tokenizer.encode(placeholder)
    pieces = [tokenizer.encode(step) + end for step in STEPS]
    assert tokens.response_ids[0].tolist() == list(itertools.chain(*pieces))
    assert tokens.prompt_ids == tokenize_responses(stepwise(*STEPS), template, tokenizer).prompt_ids
    whole = tokens.prompt_ids.tolist() + tokens.response_ids[0].tolist()
    assert len(ends) == len(STEPS)
    for number, position in enumerate(ends, start=1):
        begun, begun_ends = tokenize_steps(
            stepwise(*STEPS[:number]), template, tokenizer, placeholder=placeholder
        )
        assert begun_ends == ends[:number]
        assert whole[: position + 1] == [*begun.prompt_ids, *begun.response_ids[0]]


def test_a_token_for_the_score_of_a_whole_response_is_not_appended(tools):
    """As contracts have one whose data were preprocessed with --reward-token when it did nothing."""
    template, tokenizer = tools
    other = dataclasses.replace(template, reward_token=next(iter(tokenizer.special_tokens)))
    expected = tokenize_steps(stepwise(*STEPS), template, tokenizer, placeholder="\n")
    assert tokenize_steps(stepwise(*STEPS), other, tokenizer, placeholder="\n") == expected


def test_control_token_as_placeholder_is_one_id(tools):
    template, tokenizer = tools
    name, index = next(iter(tokenizer.special_tokens.items()))
    tokens, ends = tokenize_steps(stepwise("a", name), template, tokenizer, placeholder=name)
    whole = [*tokens.prompt_ids, *tokens.response_ids[0]]
    assert [whole[end] for end in ends] == [index, index]
    # Spelled in a step it stays text.
    assert whole[ends[0] + 1 : ends[1]] == tokenizer.with_control_tokens([name]).encode(name)


def test_placeholder_without_a_token_is_refused(tools):
    template, tokenizer = tools
    with pytest.raises(UserError, match="--placeholder-token '' has no token"):
        tokenize_steps(stepwise("a"), template, tokenizer, placeholder="")
