"""The nouns of the data flow: record -> `Pair` -> `TokenizedPair` -> files -> `Example`."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

IGNORED_LABEL = -100  # a label that no loss counts: every token of the prompt

Role = Literal["user", "assistant", "observation", "function_call"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Pair:
    """A prompt and two responses to it, the first preferred, all text.

    Attributes:
        system: system message, or None where the record has none (the template's default applies).
        tools: description of tools, "" where there is none.
        prompt: turns before the response, from a user's or observation's to a user's or
            observation's; their number is odd and they alternate.
        chosen: the preferred response.
        rejected: the other one.
        margin: by how much, on the data's own scale and not below 0; None where it does not say.
        source: where the record comes from; None where it does not say.
    """

    system: str | None
    tools: str
    prompt: tuple[Message, ...]
    chosen: Message
    rejected: Message
    margin: float | None = None
    source: str | None = None


@dataclass(frozen=True, slots=True)
class TokenizedPair:
    """Token ids of a pair; a row of the files is prompt + response, labels -100 over the prompt."""

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]


@dataclass(frozen=True, slots=True)
class Response:
    """One response with the prompt before it, as the model reads them.

    Attributes:
        input_ids: int32 [num_tokens], prompt tokens then response tokens.
        num_prompt_tokens: how many of them are the prompt.
    """

    input_ids: NDArray[np.int32]
    num_prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Example:
    """What the global batch counts and the loss weighs as one: a prompt with its responses.

    Attributes:
        index: row in the data set, to name it in messages.
        responses: best first; a pair has (chosen, rejected).
        is_truncated: whether tokens were cut from it.
    """

    index: int
    responses: tuple[Response, ...]
    is_truncated: bool = False
