"""Checks of every pair: their findings are always counted, and --drop drops the pairs."""

import re
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from modellink_rm.config.preprocess import CHECKS
from modellink_rm.conversation import Conversation
from modellink_rm.templates.encode import TokenizedResponses
from modellink_rm.tokenizers.tokenizer import Tokenizer, is_bracketed

NAMES = tuple(CHECKS)


def names_in(flags: int) -> list[str]:
    """The names of the checks whose bits are set."""
    return [name for i, name in enumerate(NAMES) if flags >> i & 1]


def mask_of(names: Collection[str]) -> int:
    """The bits of the checks of these names."""
    return sum(1 << NAMES.index(name) for name in set(names))


DUPLICATE = mask_of(["duplicate"])
_EQUAL, _EMPTY = mask_of(["equal"]), mask_of(["empty"])
_LONG_PROMPT, _LONG_ANSWER = mask_of(["long-prompt"]), mask_of(["long-answer"])
_SPECIAL = mask_of(["special-tokens"])


@dataclass(frozen=True, slots=True)
class RowChecks:
    """The checks that need only one pair, or one prompt with its responses.

    Attributes:
        max_prompt_length: tokens; None for no limit.
        max_answer_length: tokens, including those that the template adds; None for no limit.
        special: finds the tokenizer's control tokens in a text; None if it has none.
    """

    max_prompt_length: int | None
    max_answer_length: int | None
    special: "re.Pattern[str] | None"

    def __call__(self, example: Conversation, tokens: TokenizedResponses) -> int:
        """The bits of the checks that find something."""
        flags = 0
        answers = [response.content for response in example.responses]
        if len(set(answers)) < len(answers) and len(set(example.responses)) < len(answers):
            flags |= _EQUAL
        if not all(answers) or any(map(str.isspace, answers)):
            flags |= _EMPTY
        if self.max_prompt_length is not None and len(tokens.prompt_ids) > self.max_prompt_length:
            flags |= _LONG_PROMPT
        if self.max_answer_length is not None:
            longest = max(map(len, tokens.response_ids))
            flags |= _LONG_ANSWER if longest > self.max_answer_length else 0
        if self.special is not None:
            texts = [turn.content for turn in example.prompt]
            found = self.special.search("\n".join([example.system or "", example.tools, *texts, *answers]))
            flags |= _SPECIAL if found else 0
        return flags


def special_token_pattern(tokenizer: Tokenizer) -> "re.Pattern[str] | None":
    """A pattern that finds control tokens in brackets; words such as `sop` are not searched for."""
    tokens = sorted(filter(is_bracketed, tokenizer.special_tokens), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, tokens))) if tokens else None


class DigestSet:
    """A set of 64-bit digests, in a table with 8 bytes per slot.

    Among a hundred million different pairs, the probability that any two have the same digest is 0.03%.

    Args:
        num_slots: at the start, a power of two. Memory is used as digests are added; the table doubles when
            it is two thirds full.
    """

    def __init__(self, num_slots: int = 1 << 22) -> None:
        # zeros come untouched from the system; a memoryview gives Python's ints, and fast
        self._slots = memoryview(np.zeros(num_slots, np.uint64).data)
        self._mask = num_slots - 1
        self._count = 0

    def add(self, digest: int) -> bool:
        """Add `digest`; True if it was in the set before."""
        digest = digest or 1  # 0 is an empty slot
        index = digest & self._mask
        while self._slots[index]:
            if self._slots[index] == digest:
                return True
            index = (index + 1) & self._mask
        self._slots[index] = digest
        self._count += 1
        if self._count * 3 > self._mask * 2:
            self._grow()
        return False

    def _grow(self) -> None:
        larger = DigestSet(2 * len(self._slots))
        for digest in self._slots:
            if digest:
                larger.add(digest)
        self._slots, self._mask = larger._slots, larger._mask
