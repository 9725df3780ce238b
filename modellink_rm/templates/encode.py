"""Conversations to token ids: the slots of a template rendered with a tokenizer."""

import re
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from modellink_rm.conversation import Message, Pair, Ranking
from modellink_rm.records import RecordError
from modellink_rm.templates.chat_template import chat_renderer_of
from modellink_rm.templates.renderer import renderer_of
from modellink_rm.templates.table import Template
from modellink_rm.templates.tools import system_texts, wrapped_json
from modellink_rm.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class TokenizedResponses:
    """Token ids, int32 ("i"), of a prompt and of its responses, best first.

    A row of the files is prompt + response, labels -100 over the prompt.
    """

    prompt_ids: "array[int]"
    response_ids: "list[array[int]]"


_THOUGHT = re.compile(r"<think>.*?</think>\n*", re.DOTALL)


def tokenize_responses(
    record: Pair | Ranking, template: Template, tokenizer: Tokenizer
) -> TokenizedResponses:
    """Token ids of a prompt and of all its responses, the prompt tokenised once.

    Raises:
        RecordError: the template has no form for what the record holds.
        UserError: the tokenizer lacks a token that the template needs.
    """
    if template.chat_template:
        renderer = chat_renderer_of(template, tokenizer)
        prompt_ids, *response_ids = renderer.response_ids(
            record.system, record.tools, record.prompt, record.responses
        )
        return TokenizedResponses(prompt_ids, response_ids)
    return TokenizedResponses(
        prompt_ids=encode_prompt(record.system, record.tools, record.prompt, template, tokenizer),
        response_ids=[encode_response(response, template, tokenizer) for response in record.responses],
    )


def encode_prompt(
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
        turns: from a user's or observation's to a user's or observation's, alternating.
        template: how turns are written.
        tokenizer: what turns text into ids.

    Raises:
        RecordError: there are tools, and the template has no form for them.
        UserError: the tokenizer lacks a token that the template needs.
    """
    if template.chat_template:
        return chat_renderer_of(template, tokenizer).prompt_ids(system, tools, turns)
    renderer = renderer_of(template, tokenizer)
    systems: tuple[str, ...] = (system or template.default_system,)
    tools_index = -1
    if tools and template.tools_slots:
        tools_index = _last_user_turn(turns)
    elif tools:
        systems = _with_tools(template, tools, systems[0])
    ids = array("i")
    for index, turn in enumerate(turns):
        content = turn.content
        if index == 0:
            ids += renderer.encode(renderer.prefix)
            if systems[0] and not template.system_in_user:
                for text in systems:
                    ids += renderer.encode(renderer.system, content=text)
        elif index % 2 == 0:
            ids += renderer.encode(renderer.separator)
        elif template.strip_thoughts:
            content = _THOUGHT.sub("", content)
        if index == tools_index:
            ids += renderer.encode(renderer.tools, content=wrapped_json(tools))
        if turn.role in ("assistant", "function_call"):
            slots = renderer.assistant
        elif index == 0 and systems[0] and template.system_in_user:
            slots = renderer.user_with_system
        else:
            slots = renderer.observation if turn.role == "observation" else renderer.user
        ids += renderer.encode(slots, content=content, idx=str(index // 2), system=systems[0])
    return ids + renderer.encode(renderer.empty_thought) if template.thinking is False else ids


def encode_response(message: Message, template: Template, tokenizer: Tokenizer) -> "array[int]":
    """Token ids, int32 ("i"), of a final answer, with what the template adds after it.

    A chat template writes it after a prompt of one turn.

    Raises:
        RecordError: a chat template cannot write the answer.
        UserError: the tokenizer lacks a token that the template needs.
    """
    if template.chat_template:
        question = (Message("user", "q"),)
        _, ids = chat_renderer_of(template, tokenizer).response_ids(None, "", question, (message,))
        return ids
    renderer = renderer_of(template, tokenizer)
    content, before = message.content, array("i")
    if template.thinking is False:
        content = _THOUGHT.sub("", content)
    elif template.thinking and "<think>" not in content and "</think>" not in content:
        before = renderer.encode(renderer.empty_thought)
    return before + renderer.encode(renderer.assistant, content=content) + renderer.final


def num_closing_tokens(template: Template, tokenizer: Tokenizer) -> int:
    """How many tokens the template adds after the text of a final answer."""
    if template.chat_template:
        return chat_renderer_of(template, tokenizer).num_closing_tokens
    return renderer_of(template, tokenizer).num_closing_tokens


def _with_tools(template: Template, tools: str, system: str) -> tuple[str, ...]:
    if not template.tool_format:
        reason = f"--prompt-type {template.name} has no form for tools"
        raise RecordError(reason, f"{reason}: the record cannot be written with it")
    return system_texts(template.tool_format, tools, system)


def _last_user_turn(turns: Sequence[Message]) -> int:
    return max((index for index, turn in enumerate(turns) if turn.role == "user"), default=0)
