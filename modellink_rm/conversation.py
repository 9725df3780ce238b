"""Conversations, before they become token ids: messages, pairs, rankings, single responses."""

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
        system: system message, or None if the record has none (the template's default applies).
        tools: description of tools, "" if there is none.
        prompt: turns before the response; they alternate, and the first and the last are a user's or an
            observation's.
        chosen: the preferred response.
        rejected: the other one.
        margin: by how much it is preferred, on the data's own scale and not below 0; None if not given.
        source: where the record comes from; None if not given.
        probability: that `chosen` is preferred, such as the share of annotators who preferred it, from 0.5 to
            1; None if not given.
    """

    system: str | None
    tools: str
    prompt: tuple[Message, ...]
    chosen: Message
    rejected: Message
    margin: float | None = None
    source: str | None = None
    probability: float | None = None

    @property
    def responses(self) -> tuple[Message, ...]:
        """Both responses, the preferred one first."""
        return (self.chosen, self.rejected)

    @property
    def ranks(self) -> tuple[int, ...]:
        """1 for the preferred response, 2 for the other."""
        return PAIR_RANKS

    @property
    def margins(self) -> tuple[float, ...] | None:
        """The margin in the form of `Ranking.margins`."""
        return None if self.margin is None else (self.margin,)

    @property
    def probabilities(self) -> tuple[float, ...] | None:
        """The probability, for each response but the first."""
        return None if self.probability is None else (self.probability,)


@dataclass(frozen=True, slots=True)
class Ranking:
    """A prompt and two or more responses to it in order of preference, all text.

    Attributes:
        system: as in `Pair`.
        tools: as in `Pair`.
        prompt: as in `Pair`.
        responses: best first.
        ranks: of each response, from 1 for the best, without gaps; equal for a tie. The last is above 1.
        margins: by how much the best response is preferred to each other one, on the data's own scale;
            None if not given.
        source: as in `Pair`.
        places: index of each response in the record's own order; None if that is best first too.
    """

    system: str | None
    tools: str
    prompt: tuple[Message, ...]
    responses: tuple[Message, ...]
    ranks: tuple[int, ...]
    margins: tuple[float, ...] | None = None
    source: str | None = None
    places: tuple[int, ...] | None = None

    @property
    def probabilities(self) -> tuple[float, ...] | None:
        """None: a ranking is taken as it is."""
        return None


class _NoPreference:
    """A conversation none of whose responses is preferred to another."""

    __slots__ = ()

    @property
    def margins(self) -> tuple[float, ...] | None:
        """None: no response is preferred."""
        return None

    @property
    def probabilities(self) -> tuple[float, ...] | None:
        """None: no response is preferred."""
        return None


class _OneResponse(_NoPreference):
    """A conversation with one response, which is trained on for itself."""

    __slots__ = ()

    @property
    def ranks(self) -> tuple[int, ...]:
        """1 for the only response."""
        return (1,)


@dataclass(frozen=True, slots=True)
class Unranked(_NoPreference):
    """A prompt and responses without an order of preference: for scoring, not for training.

    A prompt that is to be answered has no response yet.

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
        """Empty: no response has a rank."""
        return ()


@dataclass(frozen=True, slots=True)
class Rated(_OneResponse):
    """A prompt and a response with ratings of its attributes.

    Attributes:
        system: as in `Pair`.
        tools: as in `Pair`.
        prompt: as in `Pair`.
        response: what is rated.
        ratings: of each attribute that the handler names, on the data's own scale; NaN if not given.
        source: as in `Pair`.
    """

    system: str | None
    tools: str
    prompt: tuple[Message, ...]
    response: Message
    ratings: tuple[float, ...]
    source: str | None = None

    @property
    def responses(self) -> tuple[Message, ...]:
        """The one response."""
        return (self.response,)


@dataclass(frozen=True, slots=True)
class Stepwise(_OneResponse):
    """A prompt and one response to it in steps, which are scored one by one.

    Attributes:
        system: as in `Pair`.
        tools: as in `Pair`.
        prompt: as in `Pair`.
        steps: the texts of the response's steps, at least one.
        labels: of each step the probability that it is right, 1 or 0 where that is certain, or None if it has
            no label; None if the record has none at all.
        source: as in `Pair`.
    """

    system: str | None
    tools: str
    prompt: tuple[Message, ...]
    steps: tuple[str, ...]
    labels: tuple[float | None, ...] | None = None
    source: str | None = None

    @property
    def responses(self) -> tuple[Message, ...]:
        """The response as one message, a line for each step."""
        return (Message("assistant", "\n".join(self.steps)),)


Conversation = Pair | Ranking | Unranked | Rated | Stepwise
