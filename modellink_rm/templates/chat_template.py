"""--prompt-type hf: the tokenizer's own chat template, rendered by transformers."""

import functools
import json
import re
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from modellink_rm.base.errors import UserError
from modellink_rm.conversation import Message
from modellink_rm.records import RecordError, shortened
from modellink_rm.templates.calls import text_and_calls
from modellink_rm.templates.render_limits import MAX_SECONDS, RenderingTooLongError, rendering_limits
from modellink_rm.templates.table import Template
from modellink_rm.tokenizers.tokenizer import Tokenizer

NAME = "hf"
_ROLES = {"user": "user", "observation": "tool", "assistant": "assistant", "function_call": "assistant"}
# Exceptions, besides Jinja's own, of templates that get records they were not written for.
_RENDERING_ERRORS = (
    *(TypeError, ValueError, LookupError, AttributeError, ArithmeticError, NameError),
    *(RecursionError, MemoryError, RenderingTooLongError),
)
_LONGEST_TEXT = 1 << 26  # characters
# Private-use characters, one of which marks a control token in the text of a message.
_MARKS = [chr(code) for code in range(0xE000, 0xE010)]


def chat_template_of(tokenizer: Tokenizer, *, thinking: bool | None) -> Template:
    """The template whose slots are the tokenizer's own chat template.

    Args:
        tokenizer: read from a directory that transformers can read too.
        thinking: `enable_thinking` for the chat template; None for its default.

    Raises:
        UserError: transformers cannot read the tokenizer, or it has no chat template.
    """
    own = _transformers_tokenizer(tokenizer)
    if not own.chat_template:
        raise UserError(f"--prompt-type {NAME}: the tokenizer {tokenizer.name} has no chat template")
    try:
        text = own.get_chat_template()
    except ValueError as error:  # it has several, none of them the default
        raise UserError(f"--prompt-type {NAME}: {tokenizer.name}: {shortened(str(error))}") from None
    _check_operators(text, tokenizer.name)
    return Template(name=NAME, user=(), chat_template=text, thinking=thinking)


def _check_operators(text: str, where: str) -> None:
    """Refuse a template that cannot be parsed, or that uses powers, which no time limit can interrupt."""
    from jinja2 import nodes
    from jinja2.exceptions import TemplateSyntaxError
    from transformers.utils.chat_template_utils import _compile_jinja_template  # transformers 5.23

    # The environment of an empty template: compiling this one would already compute its constants.
    environment = _compile_jinja_template("").environment
    try:
        with rendering_limits():
            has_powers = environment.parse(text).find(nodes.Pow) is not None
    except (TemplateSyntaxError, RecursionError, MemoryError, RenderingTooLongError) as error:
        problem = str(error) or type(error).__name__
        raise UserError(
            f"--prompt-type {NAME}: the chat template of {where} cannot be read: {shortened(problem)}"
        ) from None
    if has_powers:
        raise UserError(f"--prompt-type {NAME}: the chat template of {where} uses **, which is not allowed")


class ChatRenderer:
    """A chat template with its tokenizer."""

    def __init__(self, template: Template, tokenizer: Tokenizer) -> None:
        from jinja2.exceptions import TemplateError

        self._errors = (TemplateError, *_RENDERING_ERRORS)
        self._own = _transformers_tokenizer(tokenizer)
        self._chat_template = template.chat_template
        self._has_tools = re.search(r"\btools\b", template.chat_template) is not None
        self._has_calls = re.search(r"\btool_calls\b", template.chat_template) is not None
        self._variables = {} if template.thinking is None else {"enable_thinking": template.thinking}
        special = {token.content for token in self._own.added_tokens_decoder.values() if token.special}
        self._special = sorted(special.union(self._own.all_special_tokens), key=len, reverse=True)
        self._special_pattern = re.compile("|".join(map(re.escape, self._special)) or "(?!)")
        added = {token.content: token for token in self._own.added_tokens_decoder.values()}
        self._added_pattern = re.compile(
            "|".join(map(re.escape, sorted(added, key=len, reverse=True))) or "(?!)"
        )
        # Where the text may be cut in two: ids after such a token do not depend on the text before it.
        self._cuts = {
            text
            for text, token in added.items()
            if self._own.is_fast and not (token.lstrip or token.normalized or token.single_word)
        }
        self._plain = tokenizer.with_control_tokens(
            [token for token in self._special if tokenizer.token_to_id(token) is not None]
        )

    def response_ids(
        self, system: str | None, tools: str, turns: Sequence[Message], answers: Sequence[Message]
    ) -> "Iterator[array[int]]":
        """Ids, int32 ("i"): of the prompt with the answer's opener, then of each answer.

        Raises:
            RecordError: the chat template refuses the record or ignores its tools, or the ids of prompt and
                answer do not begin with those of the prompt.
        """
        ids = self._ids(system, tools, turns, answers)
        prompt = next(ids)
        yield prompt
        for whole in ids:
            if whole[: len(prompt)] != prompt:
                reason = "the chat template's prompt and answer do not begin with its prompt"
                raise RecordError(reason)
            yield whole[len(prompt) :]

    @functools.cached_property
    def num_closing_tokens(self) -> int:
        """How many tokens the chat template adds after the text of an answer.

        Raises:
            UserError: the template cannot render a question with its answer.
        """
        end = "\N{BLACK SQUARE}"
        turns = [Message("user", "q"), _answer(end)]
        try:
            text = self._text(_messages(None, turns, with_calls=False), None)
        except RecordError as error:
            raise UserError(
                f"--prompt-type {NAME}: it cannot render a question and an answer: {error}"
            ) from None
        return len(self._encoded(text.rpartition(end)[2], mark=""))

    def _ids(
        self, system: str | None, tools: str, turns: Sequence[Message], answers: Sequence[Message]
    ) -> "Iterator[array[int]]":
        mark, marked = self._with_marks([system or "", tools, *(m.content for m in (*turns, *answers))])
        system, tools = marked[0], marked[1]
        texts = iter(marked[2:])
        turns = [Message(turn.role, next(texts)) for turn in turns]
        functions = self._tools(tools)
        before = _messages(system, turns, with_calls=self._has_calls)
        prompt = self._text(before, functions, opens_answer=True)
        shared = prompt[: self._last_cut(prompt)]
        shared_ids = self._encoded(shared, mark)
        yield shared_ids + self._encoded(prompt[len(shared) :], mark)
        for answer in answers:
            last = Message(answer.role, next(texts))
            messages = [*before, *_messages(None, [last], with_calls=self._has_calls)]
            whole = self._text(messages, functions)
            yield (
                shared_ids + self._encoded(whole[len(shared) :], mark)
                if whole.startswith(shared)
                else self._encoded(whole, mark)
            )

    def _last_cut(self, text: str) -> int:
        """Position of the last token before which the text may be cut; 0 if there is none."""
        found = [match.start() for match in self._added_pattern.finditer(text) if match[0] in self._cuts]
        return found[-1] if found else 0

    def _with_marks(self, texts: list[str]) -> tuple[str, list[str]]:
        """A character that none of the texts contains, and the texts with it inside each control token."""
        if not any(self._special_pattern.search(text) for text in texts):
            return "", texts
        mark = next(mark for mark in _MARKS if not any(mark in text for text in texts))
        return mark, [
            self._special_pattern.sub(lambda found: found[0][:1] + mark + found[0][1:], text)
            for text in texts
        ]

    def _tools(self, tools: str) -> list[Any] | None:
        if not tools:
            return None
        if not self._has_tools:
            raise RecordError(f"--prompt-type {NAME}: the chat template has no form for tools")
        reason = "tools are not a JSON list of functions"
        try:
            value = json.loads(tools)
        except (ValueError, RecursionError):
            raise RecordError(reason) from None
        value = value if isinstance(value, list) else [value]
        if not all(isinstance(tool, dict) for tool in value):
            raise RecordError(reason)
        return value

    def _text(
        self, messages: list[dict[str, Any]], tools: list[Any] | None, *, opens_answer: bool = False
    ) -> str:
        try:
            with rendering_limits():
                text: str = self._own.apply_chat_template(
                    messages,
                    tools=tools,
                    chat_template=self._chat_template,
                    add_generation_prompt=opens_answer,
                    tokenize=False,
                    **self._variables,
                )
        except self._errors as error:
            raise _refusal(error) from None
        if len(text) > _LONGEST_TEXT:
            raise RecordError("the chat template renders too long a text")
        return text

    def _encoded(self, text: str, mark: str) -> "array[int]":
        if not text:
            return array("i")
        if not mark:
            # Like apply_chat_template, which tokenises the rendered text.
            return array("i", self._own(text, add_special_tokens=False)["input_ids"])
        ids = array("i")
        start = 0
        for found in self._special_pattern.finditer(text):
            ids += self._plain.encode_array(text[start : found.start()].replace(mark, ""))
            ids.append(self._own.convert_tokens_to_ids(found[0]))
            start = found.end()
        return ids + self._plain.encode_array(text[start:].replace(mark, ""))


@functools.lru_cache(maxsize=8)
def chat_renderer_of(template: Template, tokenizer: Tokenizer) -> ChatRenderer:
    """The renderer of a template that is a chat template."""
    return ChatRenderer(template, tokenizer)


def _messages(system: str | None, turns: Sequence[Message], *, with_calls: bool) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    return messages + [_message(turn, with_calls=with_calls) for turn in turns]


def _message(turn: Message, *, with_calls: bool) -> dict[str, Any]:
    """A turn in the form of chat templates; its calls are `tool_calls` if the chat template supports them."""
    message: dict[str, Any] = {"role": _ROLES[turn.role], "content": turn.content}
    text, calls = text_and_calls(turn.content) if with_calls and turn.role == "function_call" else ("", [])
    if calls:
        functions = [{"name": call.name, "arguments": call.arguments} for call in calls]
        message["content"] = text
        message["tool_calls"] = [{"type": "function", "function": function} for function in functions]
    return message


def _refusal(error: Exception) -> RecordError:
    if isinstance(error, RenderingTooLongError):
        return RecordError(f"the chat template takes more than {MAX_SECONDS:g} s")
    if isinstance(error, MemoryError):
        return RecordError("the chat template takes too much memory")
    message = str(error) or type(error).__name__
    return RecordError("the chat template refuses the record", f"the chat template: {message}")


def _answer(text: str) -> Message:
    return Message("assistant", text)


@functools.lru_cache(maxsize=8)
def _transformers_tokenizer(tokenizer: Tokenizer) -> Any:
    directory = Path(tokenizer.name)
    if not directory.is_dir():
        raise UserError(f"--prompt-type {NAME} needs --tokenizer-name-or-path DIR, a directory")
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(
            str(directory), local_files_only=True, trust_remote_code=tokenizer.trusts_its_code
        )
    except Exception as error:  # transformers raises whatever the tokenizer's own code raises
        lines = str(error).strip().splitlines() or [type(error).__name__]
        hint = "" if tokenizer.trusts_its_code else "; --trust-remote-code would run code that comes with it"
        raise UserError(
            f"--prompt-type {NAME}: transformers cannot read the tokenizer {directory}: {lines[0]}{hint}"
        ) from None
