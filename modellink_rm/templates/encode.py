"""Conversations to token ids: the slots of a template rendered with a tokenizer."""

import re
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from modellink_rm.conversation import Conversation, Message
from modellink_rm.records import RecordError
from modellink_rm.templates.calls import CALL_FORMATS, NextMessage, Parts, call_texts
from modellink_rm.templates.chat_template import chat_renderer_of
from modellink_rm.templates.renderer import Renderer, renderer_of, reward_token_ids
from modellink_rm.templates.table import Template
from modellink_rm.templates.tools import system_texts, wrapped_json
from modellink_rm.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class TokenizedResponses:
    """Token ids, int32 ("i"), of a prompt and of its responses, in the conversation's order.

    A row of the files is prompt + response, labels -100 over the prompt.
    """

    prompt_ids: "array[int]"
    response_ids: "list[array[int]]"


_THOUGHT = re.compile(r"<think>.*?</think>\n*", re.DOTALL)


def tokenize_responses(
    conversation: Conversation, template: Template, tokenizer: Tokenizer
) -> TokenizedResponses:
    """Token ids of a prompt and of all its responses, the prompt tokenised once.

    Preprocessing, scoring and generation call this function, and no other.

    Raises:
        RecordError: the template has no form for a part of the record, or a response has no token.
        UserError: the tokenizer lacks a token that the template needs.
    """
    system, tools, prompt = conversation.system, conversation.tools, conversation.prompt
    if template.chat_template:
        renderer = chat_renderer_of(template, tokenizer)
        prompt_ids, *response_ids = renderer.response_ids(system, tools, prompt, conversation.responses)
    else:
        prompt_ids = _prompt_ids(system, tools, prompt, template, tokenizer)
        response_ids = [_response_ids(one, template, tokenizer) for one in conversation.responses]
    reward_ids = reward_token_ids(template, tokenizer)
    response_ids = [ids + reward_ids for ids in response_ids] if reward_ids else response_ids
    if len(prompt_ids) + min(map(len, response_ids), default=0) == 0:
        raise RecordError("no tokens", "prompt and answer have no tokens at all")
    return TokenizedResponses(prompt_ids, response_ids)


def _prompt_ids(
    system: str | None,
    tools: str,
    turns: Sequence[Message],
    template: Template,
    tokenizer: Tokenizer,
) -> "array[int]":
    """Token ids, int32 ("i"), of everything before a response, the opener of the answer included.

    Args:
        system: None or "" for the template's default.
        tools: a JSON list of functions, "" for none.
        turns: alternating; the first and the last are a user's or an observation's.
        template: how turns are written.
        tokenizer: encodes the texts.

    Raises:
        RecordError: there are tools, or a system message, and the template has no form for them.
        UserError: the tokenizer lacks a token that the template needs.
    """
    renderer = renderer_of(template, tokenizer)
    systems: tuple[str, ...] = (system or template.default_system,)
    tools_index = -1
    if tools and template.tools_slots:
        tools_index = _last_user_turn(turns)
    elif tools:
        systems = _with_tools(template, tools, systems[0])
    if system and template.system_rule == "refused":
        raise RecordError(f"--prompt-type {template.name} has no form for a system message")
    system_index = _index_of_system(template, turns)
    calls = CALL_FORMATS.get(template.call_format)
    keeps_thoughts = calls is not None and calls.keeps_thoughts
    first_kept_thought = _last_user_turn(turns) if keeps_thoughts else len(turns)
    ids = array("i")
    for index, turn in enumerate(turns):
        content = turn.content
        if index == 0:
            ids += renderer.encode(renderer.prefix)
            if systems[0] and system_index < 0:
                for text in systems:
                    ids += renderer.encode(renderer.system, content=text)
        elif index % 2 == 0:
            ids += renderer.encode(renderer.separator)
        elif template.strip_thoughts and index < first_kept_thought:
            content = _THOUGHT.sub("", content)
        if index == tools_index:
            ids += renderer.encode(renderer.tools, content=wrapped_json(tools))
        if turn.role in ("assistant", "function_call"):
            ids += _answer_ids(turn, content, template, renderer)
            continue
        is_observation = turn.role == "observation"
        if index == system_index and systems[0]:
            slots = renderer.observation_with_system if is_observation else renderer.user_with_system
        else:
            slots = renderer.observation if is_observation else renderer.user
        ids += renderer.encode(slots, content=content, idx=str(index // 2), system=systems[0])
    return ids + renderer.encode(renderer.empty_thought) if template.thinking is False else ids


def _response_ids(message: Message, template: Template, tokenizer: Tokenizer) -> "array[int]":
    """Token ids, int32 ("i"), of a final answer, with the tokens that the template adds after it.

    Raises:
        UserError: the tokenizer lacks a token that the template needs.
    """
    renderer = renderer_of(template, tokenizer)
    content, before = message.content, array("i")
    if template.thinking is False:
        content = _THOUGHT.sub("", content)
    elif template.thinking and "<think>" not in content and "</think>" not in content:
        before = renderer.encode(renderer.empty_thought)
    return before + _answer_ids(message, content, template, renderer) + renderer.final


def num_closing_tokens(template: Template, tokenizer: Tokenizer) -> int:
    """How many tokens the template adds after the text of a final answer."""
    number = len(reward_token_ids(template, tokenizer))
    if template.chat_template:
        return number + chat_renderer_of(template, tokenizer).num_closing_tokens
    return number + renderer_of(template, tokenizer).num_closing_tokens


def content_ids(text: str, template: Template, tokenizer: Tokenizer) -> "array[int]":
    """Token ids, int32 ("i"), of a text within a message, without what the template adds to it."""
    if template.chat_template:
        return chat_renderer_of(template, tokenizer).text_ids(text)
    renderer = renderer_of(template, tokenizer)
    return renderer.encode(renderer.content, content=text)


def _with_tools(template: Template, tools: str, system: str) -> tuple[str, ...]:
    if not template.tool_format:
        reason = f"--prompt-type {template.name} has no form for tools"
        raise RecordError(reason, f"{reason}: the record cannot be written with it")
    return system_texts(template.tool_format, tools, system)


def _answer_ids(turn: Message, content: str, template: Template, renderer: Renderer) -> "array[int]":
    """Ids of an answer: of its calls if the template has a form for them, else of its text."""
    parts: Parts = ()
    if turn.role == "function_call" and template.call_format:
        parts = call_texts(template.call_format, content)
    if not parts:
        return renderer.encode(renderer.assistant, content=content)
    replaces_opening = CALL_FORMATS[template.call_format].replaces_opening
    slots = renderer.content if replaces_opening else renderer.assistant
    ids = array("i")
    for part in parts:
        if isinstance(part, NextMessage):
            ids.append(renderer.id_of(part.token))
        else:
            ids += renderer.encode(slots, content=part)
    return ids


def _index_of_system(template: Template, turns: Sequence[Message]) -> int:
    """Index of the turn whose text begins with the system text; -1 if that is a turn of its own."""
    if template.system_rule == "last_user":
        return _last_user_turn(turns)
    return 0 if template.system_in_user else -1


def _last_user_turn(turns: Sequence[Message]) -> int:
    return max((index for index, turn in enumerate(turns) if turn.role == "user"), default=0)
