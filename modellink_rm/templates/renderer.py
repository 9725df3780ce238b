"""A template's slots prepared for one tokenizer: constant text is tokenised once."""

import functools
import re
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from modellink_rm.base.errors import UserError
from modellink_rm.records import RecordError
from modellink_rm.templates.table import CONTENT, ROUND, Bos, Eos, Slot, Template, Token
from modellink_rm.tokenizers.tokenizer import Tokenizer

SYSTEM = "{system}"  # the system text inside a user's message
_FIELDS = re.compile(r"(\{content\}|\{idx\}|\{system\})")
EMPTY_THOUGHT = "<think>\n\n</think>\n\n"


def eos_id_of(template: Template, tokenizer: Tokenizer) -> int | None:
    """Id of the template's EOS: its first stop word if it replaces the tokenizer's.

    Raises:
        UserError: the tokenizer has no such token.
    """
    return (
        _required_id(template.stop_words[0], template, tokenizer)
        if template.replace_eos
        else tokenizer.eos_id
    )


def reward_token_ids(template: Template, tokenizer: Tokenizer) -> "array[int]":
    """The id of the template's reward token, int32 ("i"); empty if it has none.

    Raises:
        UserError: the tokenizer has no such token.
    """
    if not template.reward_token:
        return array("i")
    return array("i", [_required_id(template.reward_token, template, tokenizer)])


def _required_id(token: str, template: Template, tokenizer: Tokenizer) -> int:
    index = tokenizer.token_to_id(token)
    if index is None:
        raise UserError(
            f"--prompt-type {template.name} needs the special token {token}, which the tokenizer "
            f"{tokenizer.name} does not have"
        )
    return index


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Text between control tokens: literals, and fields to fill in."""

    parts: tuple[str, ...]


# A prepared slot: constant ids, or text to fill in and then tokenise as a whole.
_Step: TypeAlias = "array[int] | _Stretch"


class Renderer:
    """A template's slots prepared for one tokenizer: control tokens found, constant text tokenised."""

    def __init__(self, template: Template, tokenizer: Tokenizer) -> None:
        self._template = template
        self._eos_id = eos_id_of(template, tokenizer)
        observation = template.observation or template.user
        # A message may contain the template's control tokens: there the tokenizer must read them as text.
        self._tokenizer = tokenizer.with_control_tokens(control_tokens_of(template, tokenizer))
        self.prefix = self._prepared(template.prefix)
        self.system = self._prepared(template.system)
        self.separator = self._prepared(template.separator)
        self.user = self._prepared(template.user)
        self.user_with_system = self._prepared(with_system_inside(template.user, template.system))
        self.observation = self._prepared(observation)
        self.observation_with_system = self._prepared(with_system_inside(observation, template.system))
        self.assistant = self._prepared(template.assistant)
        self.content = self._prepared((CONTENT,))
        self.final = array("i", [self._required_eos_id()] if template.efficient_eos else [])
        # Not among the control tokens above: in an answer, <think> keeps the tokenizer's own meaning.
        self.empty_thought = self._prepared((EMPTY_THOUGHT,)) if template.thinking is not None else []
        self.num_closing_tokens = self._num_tokens_after_content()

    @functools.cached_property
    def tools(self) -> list[_Step]:
        """The slots around the JSON of tools.

        Raises:
            RecordError: the tokenizer lacks one of their tokens; only records with tools need it.
        """
        for slot in self._template.tools_slots:
            if isinstance(slot, Token) and self._tokenizer.token_to_id(slot.name) is None:
                reason = f"the tokenizer has no {slot.name}"
                raise RecordError(reason, f"{reason}, which tools need")
        return self._prepared(self._template.tools_slots)

    def encode(self, steps: Sequence[_Step], **fields: str) -> "array[int]":
        """Ids, int32, of prepared slots with their fields filled in."""
        ids = array("i")
        for step in steps:
            if isinstance(step, _Stretch):
                text = "".join([fields[part[1:-1]] if part in _FIELD_NAMES else part for part in step.parts])
                ids += self._tokenizer.encode_array(text)
            else:
                ids += step
        return ids

    def id_of(self, token: str) -> int:
        """Id of a control token.

        Raises:
            UserError: the tokenizer does not have it.
        """
        return _required_id(token, self._template, self._tokenizer)

    def _prepared(self, slots: Sequence[Slot]) -> list[_Step]:
        steps: list[_Step] = []
        for slot in slots:
            if isinstance(slot, str):
                steps += self._prepared_text(slot)
            elif isinstance(slot, Bos):
                steps.append(array("i", [] if self._tokenizer.bos_id is None else [self._tokenizer.bos_id]))
            elif isinstance(slot, Eos):
                steps.append(array("i", [self._required_eos_id()]))
            else:
                steps.append(array("i", [_required_id(slot.name, self._template, self._tokenizer)]))
        return steps

    def _prepared_text(self, text: str) -> list[_Step]:
        steps: list[_Step] = []
        parts: list[str] = []

        def end_stretch() -> None:
            if any(part in _FIELD_NAMES for part in parts):
                steps.append(_Stretch(tuple(parts)))
            elif parts:
                steps.append(self._tokenizer.encode_array("".join(parts)))
            parts.clear()

        for part in split_at_control_tokens(text, self._tokenizer):
            index = None if part in _FIELD_NAMES else self._tokenizer.token_to_id(part)
            if index is None:
                parts.append(part)
            else:
                end_stretch()
                steps.append(array("i", [index]))
        end_stretch()
        return steps

    def _required_eos_id(self) -> int:
        if self._eos_id is None:
            raise UserError(
                f"--prompt-type {self._template.name} ends an answer with EOS, but the tokenizer "
                f"{self._tokenizer.name} has none: declare eos_token in its tokenizer_config.json"
            )
        return self._eos_id

    def _num_tokens_after_content(self) -> int:
        count = len(self.final)
        for step in reversed(self.assistant):
            if isinstance(step, _Stretch):
                literals = step.parts[step.parts.index(CONTENT) + 1 :]
                return count + len(self._tokenizer.encode("".join(literals)))
            count += len(step)
        raise AssertionError("an answer has a place for its text")


_FIELD_NAMES = frozenset((CONTENT, ROUND, SYSTEM))


@functools.lru_cache(maxsize=8)
def renderer_of(template: Template, tokenizer: Tokenizer) -> Renderer:
    """The template's slots for that tokenizer.

    Raises:
        UserError: the tokenizer lacks a token that the template needs.
    """
    return Renderer(template, tokenizer)


def with_system_inside(turn: Sequence[Slot], system: Sequence[Slot]) -> list[Slot]:
    """The slots of a turn with the system text before the message, in the same slot as the message."""
    before = "".join(slot for slot in system if isinstance(slot, str)).replace(CONTENT, SYSTEM)
    return [slot.replace(CONTENT, before + CONTENT) if isinstance(slot, str) else slot for slot in turn]


def split_at_control_tokens(text: str, tokenizer: Tokenizer) -> list[str]:
    """A slot's text, split into fields, control tokens that the tokenizer knows, and literals."""
    parts: list[str] = []
    for part in _FIELDS.split(text):
        spelled = (
            [] if part in _FIELD_NAMES else [token for token in tokenizer.special_tokens if token in part]
        )
        if spelled:
            # Longest first: where two tokens match, the longer one is meant.
            spelled.sort(key=len, reverse=True)
            parts += re.split("(" + "|".join(map(re.escape, spelled)) + ")", part)
        else:
            parts.append(part)
    return [part for part in parts if part]


def control_tokens_of(template: Template, tokenizer: Tokenizer) -> set[str]:
    """Every token of the tokenizer that the template's slots contain or name."""
    slots = (
        *(template.prefix + template.system + template.separator + template.user),
        *((template.observation or ()) + template.assistant + template.tools_slots),
    )
    named = {slot.name for slot in slots if isinstance(slot, Token)} | set(template.stop_words)
    named.add(template.reward_token)
    for slot in slots:
        if isinstance(slot, str):
            named.update(split_at_control_tokens(slot, tokenizer))
    return {token for token in named if tokenizer.token_to_id(token) is not None}
