"""Conversations that an exported directory is tried with: their ids by our renderer."""

from dataclasses import dataclass
from typing import Any

from modellink_rm.conversation import Message, Stepwise, Unranked
from modellink_rm.records import RecordError
from modellink_rm.templates.encode import tokenize_responses
from modellink_rm.templates.steps import tokenize_steps
from modellink_rm.templates.table import TEMPLATES, Template
from modellink_rm.tokenizers.tokenizer import Tokenizer

_TURNS: tuple[tuple[str | None, tuple[str, ...]], ...] = (
    (None, ("What is the capital of France?", "The capital of France is Paris.")),
    (None, ("Name a prime above 10.", "No.")),
    (
        None,
        (
            "Write a function that adds two numbers.",
            "def add(a, b):\n    return a + b\n\nIt also adds 3.14 and -2.",
            "And without a name?",
            "add = lambda a, b: a + b  # shorter, but harder to read",
        ),
    ),
    ("You answer in one line.", ("你好，世界！", "你好！我能帮你什么吗？")),
    (
        "Be brief.",
        (
            "List three colours, then say which one is the warmest of them.",
            "1. red\n2. green\n3. blue",
            "Why?",
            'Red: "warm" colours have long wavelengths (620-750 nm).',
            "Thanks!",
            "You're welcome.",
        ),
    ),
)


@dataclass(frozen=True)
class Sample:
    """A conversation whose last message is the answer to score.

    Attributes:
        messages: in the form of chat templates.
        input_ids: as training renders them.
        step_ends: the tokens at which steps are scored; None where the last token is.
    """

    messages: tuple[dict[str, str], ...]
    input_ids: tuple[int, ...]
    step_ends: tuple[int, ...] | None = None

    @property
    def is_plain(self) -> bool:
        """A question and its answer with nothing to normalize: ASCII, no line break, no run of spaces."""
        texts = [one["content"] for one in self.messages]
        is_simple = all(text.isascii() and "\n" not in text and "  " not in text for text in texts)
        return is_simple and len(texts) == 2

    def to_json(self) -> dict[str, Any]:
        """For another process."""
        return {
            "messages": list(self.messages),
            "input_ids": list(self.input_ids),
            "step_ends": None if self.step_ends is None else list(self.step_ends),
        }


def samples_of_steps(template: Template | None, tokenizer: Tokenizer, *, placeholder: str) -> list[Sample]:
    """The conversations, their last answer in steps: its lines.

    Raises:
        UserError: the tokenizer lacks a token that the template needs.
    """
    samples = []
    for system, turns in _TURNS:
        prompt = tuple(
            Message("assistant" if index % 2 else "user", text) for index, text in enumerate(turns[:-1])
        )
        conversation = Stepwise(system=system, tools="", prompt=prompt, steps=tuple(turns[-1].split("\n")))
        try:
            tokens, ends = tokenize_steps(
                conversation, template or TEMPLATES["empty"], tokenizer, placeholder=placeholder
            )
        except RecordError:
            continue  # no form for a system message
        samples.append(Sample((), (*tokens.prompt_ids, *tokens.response_ids[0]), ends))
    return samples


def samples_of(template: Template | None, tokenizer: Tokenizer) -> list[Sample]:
    """The conversations that the template has a form for; without a template their texts alone.

    Raises:
        UserError: the tokenizer lacks a token that the template needs.
    """
    if template is None:
        texts = ["\n".join(turns) for _, turns in _TURNS]
        return [Sample((), tuple(tokenizer.encode(text))) for text in texts]
    samples = []
    for system, turns in _TURNS:
        messages = tuple(
            Message("assistant" if index % 2 else "user", text) for index, text in enumerate(turns)
        )
        conversation = Unranked(system=system, tools="", prompt=messages[:-1], responses=messages[-1:])
        try:
            tokens = tokenize_responses(conversation, template, tokenizer)
        except RecordError:
            continue  # no form for a system message
        before = [{"role": "system", "content": system}] if system else []
        after = [{"role": one.role, "content": one.content} for one in messages]
        samples.append(Sample((*before, *after), (*tokens.prompt_ids, *tokens.response_ids[0])))
    return samples
