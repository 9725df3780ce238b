"""--prompt-type hf: the tokenizer's own chat template, rendered by transformers."""

import contextlib
import functools
import re
import threading
from array import array
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

from modellink_rm.base.errors import UserError
from modellink_rm.conversation import Message
from modellink_rm.records import RecordError
from modellink_rm.templates.chat_checks import check_chat_template
from modellink_rm.templates.chat_forms import ChatForms, ChatMessage, chat_messages, find_forms, with_tools
from modellink_rm.templates.chat_text import ending_with_the_answer, with_fixed_date
from modellink_rm.templates.chat_tokenizer import NAME, ChatTokenizer, chat_tokenizer_of, pattern_of
from modellink_rm.templates.render_limits import MAX_SECONDS, RenderingTooLongError, rendering_limits
from modellink_rm.templates.render_process import RenderProcess, render
from modellink_rm.templates.table import Template
from modellink_rm.tokenizers.tokenizer import Tokenizer, is_bracketed

# Exceptions, besides Jinja's own, of templates that get records they were not written for.
_RENDERING_ERRORS = (
    *(TypeError, ValueError, LookupError, AttributeError, ArithmeticError, NameError),
    *(RecursionError, MemoryError, RenderingTooLongError),
)
_LONGEST_TEXT = 1 << 26  # characters
# Unlike <think> and <tool_call>, which answers may hold. DeepSeek has bars of full width.
_BAR = "[|\N{FULLWIDTH VERTICAL LINE}]"
_CONTROL = re.compile(f"<{_BAR}[^<>]+{_BAR}>")
# Private-use characters, one of which marks a control token in the text of a message.
_MARKS = [chr(code) for code in range(0xE000, 0xE010)]
_QUESTION, _ANSWER = "\N{WHITE SQUARE}", "\N{BLACK SQUARE}"
_ASKED: list[ChatMessage] = [{"role": "user", "content": _QUESTION}]
_ANSWERED: list[ChatMessage] = [*_ASKED, {"role": "assistant", "content": _ANSWER}]
# Messages, and the tools that are an argument of the rendering.
_Chat: TypeAlias = tuple[list[ChatMessage], list[Any] | None]


def chat_template_of(tokenizer: Tokenizer, *, thinking: bool | None, whole: bool = False) -> Template:
    """The template whose slots are the tokenizer's own chat template.

    Two things are changed in it: it has a fixed date, and writes nothing after the end of the last answer.

    Args:
        tokenizer: read from a directory that has a chat template.
        thinking: `enable_thinking` for the chat template; None for its default.
        whole: keep what it writes after the end of the last answer, as other trainers do.

    Raises:
        UserError: transformers cannot read the tokenizer, it has no chat template, or one that cannot render
            a question and an answer, or that does not know `enable_thinking` where it is given.
    """
    text = chat_tokenizer_of(tokenizer).chat_template
    if not text:
        raise UserError(f"--prompt-type {NAME}: the tokenizer {tokenizer.name} has no chat template")
    if thinking is not None and not re.search(r"\benable_thinking\b", text):
        raise UserError(
            f"--enable-thinking {str(thinking).lower()}: the chat template of {tokenizer.name} does not read "
            "enable_thinking; leave the flag out"
        )
    text = with_fixed_date(text, where=tokenizer.name)
    template = Template(name=NAME, user=(), chat_template=text, thinking=thinking)
    renderer = ChatRenderer(template, tokenizer)
    renderer.check_prompt()
    if whole:
        return template
    text = ending_with_the_answer(text, renderer.closing, renderer.end_of_closing)
    return Template(name=NAME, user=(), chat_template=text, thinking=thinking)


class ChatRenderer:
    """A chat template with its tokenizer.

    Raises:
        UserError: it cannot be parsed, or does what no chat template may.
    """

    def __init__(self, template: Template, tokenizer: Tokenizer) -> None:
        from jinja2.exceptions import TemplateError

        of = f" of {tokenizer.name}" if template.name == NAME else ""  # others are of a file
        self._place = f"--prompt-type {template.name}: the chat template{of}"
        check_chat_template(template.chat_template, place=self._place)
        self._errors = (TemplateError, *_RENDERING_ERRORS)
        self._tokenizer: ChatTokenizer = chat_tokenizer_of(tokenizer)
        self._chat_template = template.chat_template
        self._variables = dict(self._tokenizer.variables)
        if template.thinking is not None:
            self._variables["enable_thinking"] = template.thinking
        # Tokenizers that were extended for a chat do not always flag the tokens of it.
        spelled = (token for token in self._tokenizer.added if token in template.chat_template)
        self._special = {*self._tokenizer.special, *filter(_CONTROL.fullmatch, spelled)}
        self._special_pattern = pattern_of(tuple(self._special))
        self._added_pattern = pattern_of(self._tokenizer.added)
        self._plain = tokenizer.with_control_tokens(
            [token for token in self._special if tokenizer.token_to_id(token) is not None]
        )

    def response_ids(
        self, system: str | None, tools: str, turns: Sequence[Message], answers: Sequence[Message]
    ) -> "list[array[int]]":
        """Ids, int32 ("i"): of the prompt with the answer's opener, then of each answer.

        Prompt and answer together have the ids of the whole conversation. The prompt has those that are the
        same in all of them: it ends early where the beginning of an answer joins the opener to one token, or
        where the template opens an answer with more than it keeps of it, such as <think>.

        Raises:
            RecordError: the chat template refuses the record or leaves a part of it out, or writes the prompt
                differently once there is an answer.
        """
        try:
            prompt, *wholes = self._ids(system, tools, turns, answers)
        except RecursionError:
            raise RecordError("tools or calls are nested too deeply") from None
        for whole in wholes:
            prompt = prompt[: _num_equal(prompt, whole)]
        return [prompt, *(whole[len(prompt) :] for whole in wholes)]

    def text_ids(self, text: str) -> "array[int]":
        """Ids, int32 ("i"), of a text in which control tokens stay text."""
        return self._plain.encode_array(text)

    @functools.cached_property
    def closing(self) -> str:
        """What the chat template writes after the text of the last answer.

        Raises:
            UserError: it cannot render a question with its answer.
        """
        return self._checked(_ANSWERED).rpartition(_ANSWER)[2]

    @functools.cached_property
    def num_closing_tokens(self) -> int:
        """How many tokens the chat template adds after the text of an answer.

        Raises:
            UserError: it cannot render a question with its answer.
        """
        return len(self._encoded(self.closing, mark=""))

    @functools.cached_property
    def forms(self) -> ChatForms:
        """How the chat template takes system texts, tools, calls and observations."""
        return find_forms(self._text)

    @functools.cached_property
    def control_tokens(self) -> frozenset[str]:
        """The special tokens that the chat template writes.

        They are spelled in it, the value of a variable that it names, or in a conversation that it renders: a
        template may put them together from parts.
        """
        named = "".join(
            str(value)
            for name, value in self._variables.items()
            if re.search(rf"\b{name}\b", self._chat_template)
        )
        system = {"role": "system", "content": _QUESTION}
        called: list[ChatMessage] = [{"role": self.forms.observation, "content": _QUESTION}, _ANSWERED[-1]]
        written = [self._chat_template, named]
        for messages in (_ANSWERED, [system, *_ANSWERED], [*_ANSWERED, *called]):
            with contextlib.suppress(RecordError):  # it has no form for one of them
                written.append(self._text(messages, None))
        return frozenset(token for token in self._special if any(token in text for text in written))

    @property
    def end_of_closing(self) -> int:
        """How many characters of `closing` belong to the answer: up to its last control token.

        A template that opens an answer after every message (the first one of Llama 3) writes the same
        between a question and its answer: there the answer has only the first control token.
        """
        between = self._checked(_ANSWERED).rpartition(_ANSWER)[0].rpartition(_QUESTION)[2]
        ends = [
            found.end()
            for found in self._added_pattern.finditer(self.closing)
            if found[0] in self._special or is_bracketed(found[0])
        ]
        if not ends:
            return len(self.closing)
        return ends[0] if between == self.closing else ends[-1]

    def check_prompt(self) -> None:
        """Check that a question with its answer begins with the question alone.

        Raises:
            UserError: it does not, or the template cannot render them, or leaves one of them out.
        """
        whole = self._checked(_ANSWERED)
        for text, what in ((_QUESTION, "a question"), (_ANSWER, "an answer")):
            if text not in whole:
                raise UserError(f"{self._place} leaves out the text of {what}; give another --prompt-type")
        if not any(whole.startswith(self._checked(_ASKED, opens_answer=opens)) for opens in (True, False)):
            raise UserError(
                f"{self._place} does not begin a question and its answer with what it writes for the "
                "question alone; give another --prompt-type"
            )

    def _checked(self, messages: list[ChatMessage], *, opens_answer: bool = False) -> str:
        try:
            return self._text(messages, None, opens_answer=opens_answer)
        except RecordError as error:
            raise UserError(f"{self._place} cannot render a question and an answer: {error}") from None

    def _ids(
        self, system: str | None, tools: str, turns: Sequence[Message], answers: Sequence[Message]
    ) -> "Iterator[array[int]]":
        """Ids of the prompt, and of the whole conversation with each answer."""
        asked = self._chat(system, tools, turns)
        answered = [self._chat(system, tools, [*turns, answer]) for answer in answers]
        mark = self._mark_for(asked, *answered)
        prompt = self._rendered(asked, mark, opens_answer=True)
        shared = prompt[: self._last_cut(prompt)]
        shared_ids = self._encoded(shared, mark)
        yield shared_ids + self._encoded(prompt[len(shared) :], mark)
        for chat in answered:
            whole = self._rendered(chat, mark)
            if not whole.startswith(prompt) and not whole.startswith(self._rendered(asked, mark)):
                raise RecordError("the chat template's prompt and answer do not begin with its prompt")
            yield (
                shared_ids + self._encoded(whole[len(shared) :], mark)
                if whole.startswith(shared)
                else self._encoded(whole, mark)
            )

    def _chat(self, system: str | None, tools: str, turns: Sequence[Message]) -> _Chat:
        messages = chat_messages(system, turns, self.forms)
        return with_tools(messages, tools, self.forms)

    def _rendered(self, chat: _Chat, mark: str, *, opens_answer: bool = False) -> str:
        messages, tools = chat
        if mark:
            messages = [{**self._marked(one, mark), "role": one["role"]} for one in messages]
            tools = self._marked(tools, mark)
        text = self._text(messages, tools, opens_answer=opens_answer)
        if mark and f"\\u{ord(mark):04x}" in text.lower():
            raise RecordError("the chat template escapes what a control token in a text is marked with")
        return text

    def _last_cut(self, text: str) -> int:
        """Position of the last token before which the text may be cut; 0 if there is none."""
        cuts = self._tokenizer.cuts
        found = [match.start() for match in self._added_pattern.finditer(text) if match[0] in cuts]
        return found[-1] if found else 0

    def _mark_for(self, *chats: _Chat) -> str:
        """A character that none of their texts contains; "" where none spells a control token.

        Raises:
            RecordError: there is no such character.
        """
        texts = {text for messages, tools in chats for text in _texts_in([*messages, tools])}
        if not any(self._special_pattern.search(text) for text in texts):
            return ""
        for mark in _MARKS:
            if not any(mark in text for text in texts):
                return mark
        raise RecordError("control tokens beside every private-use character from U+E000 to U+E00F")

    def _marked(self, value: Any, mark: str) -> Any:
        """The value with the mark inside each control token of its texts.

        Of calls and tools it is what was parsed: in the JSON of a record a token can be spelled by escapes.
        """
        if isinstance(value, str):
            return self._special_pattern.sub(lambda found: found[0][:1] + mark + found[0][1:], value)
        if isinstance(value, dict):
            return {self._marked(key, mark): self._marked(part, mark) for key, part in value.items()}
        if isinstance(value, list):
            return [self._marked(part, mark) for part in value]
        return value

    def _text(
        self, messages: list[ChatMessage], tools: list[Any] | None, *, opens_answer: bool = False
    ) -> str:
        try:
            text = _rendered(
                {
                    **self._variables,
                    **{"messages": messages, "tools": tools, "documents": None},
                    "add_generation_prompt": opens_answer,
                },
                self._chat_template,
            )
        except UserError:  # no process can render: it is not the template's refusal
            raise
        except self._errors as error:
            raise _refusal(error) from None
        if len(text) > _LONGEST_TEXT:
            raise RecordError("the chat template renders too long a text")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise RecordError("the chat template writes half of a surrogate pair") from None
        return str(text)

    def _encoded(self, text: str, mark: str) -> "array[int]":
        if not text:
            return array("i")
        if not mark and self._tokenizer.encode is not None:
            return array("i", self._tokenizer.encode(text))
        ids = array("i")
        start = 0
        for found in self._special_pattern.finditer(text):
            ids += self._plain.encode_array(text[start : found.start()].replace(mark, ""))
            index = self._tokenizer.id_of(found[0])
            assert index is not None, found[0]
            ids.append(index)
            start = found.end()
        return ids + self._plain.encode_array(text[start:].replace(mark, ""))


_PROCESS = RenderProcess()


def _rendered(values: dict[str, Any], chat_template: str) -> str:
    """The text of a chat template, within limits, whatever else this process does meanwhile."""
    if threading.active_count() > 1:
        return _PROCESS.render(values, chat_template, seconds=MAX_SECONDS)
    with rendering_limits(MAX_SECONDS):
        return render(values, chat_template)


@functools.lru_cache(maxsize=8)
def chat_renderer_of(template: Template, tokenizer: Tokenizer) -> ChatRenderer:
    """The renderer of a template that is a chat template."""
    return ChatRenderer(template, tokenizer)


def _texts_in(value: Any) -> Iterator[str]:
    """Every text in messages or tools, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from (*_texts_in(key), *_texts_in(part))
    elif isinstance(value, list):
        for part in value:
            yield from _texts_in(part)


def _num_equal(one: "array[int]", other: "array[int]") -> int:
    """How many ids both begin with."""
    if other[: len(one)] == one:
        return len(one)
    pairs = enumerate(zip(one, other, strict=False))
    return next((index for index, pair in pairs if pair[0] != pair[1]), len(other))


def _refusal(error: BaseException) -> RecordError:
    if isinstance(error, RenderingTooLongError):
        return RecordError(f"the chat template takes more than {MAX_SECONDS:g} s")
    if isinstance(error, MemoryError):
        return RecordError("the chat template takes too much memory")
    message = str(error) or type(error).__name__
    return RecordError("the chat template refuses the record", f"the chat template: {message}")
