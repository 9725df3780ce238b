"""The template that --prompt-type, --prompt-type-path and --enable-thinking choose."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from modellink_rm.base.errors import UserError
from modellink_rm.base.log import info, warn_once
from modellink_rm.base.registry import unknown_name_message
from modellink_rm.templates.chat_template import chat_renderer_of, chat_template_of
from modellink_rm.templates.chat_tokenizer import NAME as CHAT_TEMPLATE
from modellink_rm.templates.chat_tokenizer import carries_chat_template
from modellink_rm.templates.files import template_in_file, template_of_definition
from modellink_rm.templates.table import PUBLISHED_FORMS, TEMPLATES, Template
from modellink_rm.tokenizers.tokenizer import Tokenizer

_THINKING = {"true": True, "false": False, "none": None}


def kept_template(name: str, definition: Mapping[str, Any] | None, *, where: str) -> Template:
    """The template that a manifest or a contract names, from the definition in it if it has one.

    Raises:
        UserError: there is no definition, and the name is unknown.
    """
    return TEMPLATES[name] if definition is None else template_of_definition(definition, where=where)


def find_template(
    name: str | None,
    tokenizer: Tokenizer,
    *,
    path: str | None = None,
    enable_thinking: str = "none",
    whole: bool = False,
    reward_token: str = "",
) -> Template:
    """The template of that name.

    Args:
        name: a name in the file `path` if that is given, else "hf" or a name of the table; None for "hf",
            which is then printed.
        tokenizer: the tokenizer whose chat template "hf" is.
        path: a JSON or YAML file of templates.
        enable_thinking: "true", "false" or "none".
        whole: for "hf", keep what the chat template writes after the end of an answer.
        reward_token: of --reward-token; "" for none.

    Raises:
        UserError: there is no such template, or it does not support --enable-thinking; no name is given, and
            the tokenizer has no chat template, or not the token.
    """
    template = _template_of(name, tokenizer, path=path, enable_thinking=enable_thinking, whole=whole)
    if not reward_token:
        return template
    if tokenizer.token_to_id(reward_token) is None:
        raise UserError(
            f"--reward-token {reward_token}: the tokenizer {tokenizer.name} has no such token; give one of "
            "its added tokens, such as <|reward|> of InternLM2's reward models"
        )
    return dataclasses.replace(template, reward_token=reward_token)


def check_truncation(template: Template | None, truncation: str) -> None:
    """Truncation keeps the token that the score is read at.

    Raises:
        UserError: it does not.
    """
    if template is not None and template.reward_token and truncation == "right":
        raise UserError(
            f"--truncation right cuts off {template.reward_token}, at which the score is read: give "
            "--truncation keep-ends"
        )


def _template_of(
    name: str | None, tokenizer: Tokenizer, *, path: str | None, enable_thinking: str, whole: bool
) -> Template:
    """As `find_template`, without a reward token."""
    thinking = _THINKING[enable_thinking]
    if name is None:
        name = _default_name(tokenizer, path)
    if path is None and name == CHAT_TEMPLATE:
        return chat_template_of(tokenizer, thinking=thinking, whole=whole)
    if path is None and name not in list(TEMPLATES):
        raise UserError(unknown_name_message(TEMPLATES.kind, name, [*TEMPLATES, CHAT_TEMPLATE]))
    template = TEMPLATES[name] if path is None else template_in_file(path, name)
    if template.chat_template:
        chat_renderer_of(template, tokenizer).check_prompt()
    if path is None and name in PUBLISHED_FORMS:
        warn_once(
            f"--prompt-type {name} writes a record's system text directly after BOS, as ModelLink does; for "
            f"the published form use {PUBLISHED_FORMS[name]}, or hf"
        )
    if thinking is None:
        return template
    if not template.strip_thoughts:
        raise UserError(f"--enable-thinking {enable_thinking}: --prompt-type {name} does not support it")
    variant = f"{name}_thinking" if thinking else f"{name}_no_thinking"
    if path is None and variant in list(TEMPLATES):
        return TEMPLATES[variant]
    return dataclasses.replace(template, thinking=thinking)


def _default_name(tokenizer: Tokenizer, path: str | None) -> str:
    """The tokenizer's own chat template, if it has one."""
    if path is not None:
        raise UserError(f"--prompt-type is required: it names a template of --prompt-type-path {path}")
    if not carries_chat_template(tokenizer):
        raise UserError(
            f"--prompt-type is required: the tokenizer {tokenizer.name} has no chat template of its own "
            f"(choices: {', '.join(sorted(TEMPLATES))})"
        )
    info(f"--prompt-type {CHAT_TEMPLATE}: the chat template of {tokenizer.name} is used")
    return CHAT_TEMPLATE
