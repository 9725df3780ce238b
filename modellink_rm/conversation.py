"""What a record says, before it is token ids: messages, pairs, rankings, and responses without an order."""

from dataclasses import dataclass
from typing import Literal

PAIR_RANKS = (1, 2)

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

    @property
    def responses(self) -> tuple[Message, ...]:
        """Both, the preferred one first."""
        return (self.chosen, self.rejected)

    @property
    def ranks(self) -> tuple[int, ...]:
        """1 for the preferred response, 2 for the other."""
        return PAIR_RANKS

    @property
    def margins(self) -> tuple[float, ...] | None:
        """The margin, as a `Ranking` has it."""
        return None if self.margin is None else (self.margin,)


@dataclass(frozen=True, slots=True)
class Ranking:
    """A prompt and two or more responses to it in their order of preference, all text.

    Attributes:
        system: as in `Pair`.
        tools: as in `Pair`.
        prompt: as in `Pair`.
        responses: best first.
        ranks: of each response, from 1 for the best without gaps; equal for a tie. The last is above 1.
        margins: of each response but the first, by how much the best is preferred to it, on the data's own
            scale; None where it does not say.
        source: as in `Pair`.
        places: of each response, its index in the record's own order; None where that is best first too.
    """

    system: str | None
    tools: str
    prompt: tuple[Message, ...]
    responses: tuple[Message, ...]
    ranks: tuple[int, ...]
    margins: tuple[float, ...] | None = None
    source: str | None = None
    places: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Unranked:
    """A prompt and one or more responses to it, none of which is preferred: to be scored, not trained on.

    Attributes:
        system: as in `Pair`.
        tools: as in `Pair`.
        prompt: as in `Pair`.
        responses: in the record's order.
        source: as in `Pair`.
    """

    system: str | None
    tools: str
    prompt: tuple[Message, ...]
    responses: tuple[Message, ...]
    source: str | None = None

    @property
    def ranks(self) -> tuple[int, ...]:
        """None of the responses has a rank."""
        return ()

    @property
    def margins(self) -> tuple[float, ...] | None:
        """There is nothing to prefer by a margin."""
        return None


Conversation = Pair | Ranking | Unranked
