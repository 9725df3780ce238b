"""The results of scoring a record."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from modellink_rm.conversation import Conversation, Pair, Ranking

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Scored:
    """A record with its scores.

    Attributes:
        scores: of the conversation's responses, in its order: best first if they are ranked.
        is_truncated: whether tokens were cut.
        attributes: of each response the model's outputs by name, in the order of `scores`; empty where the
            model gives one score.
        steps: of a response in steps, the probability that each is right, without those that were cut; its
            score is made of them. () of others.
    """

    conversation: Conversation
    scores: tuple[float, ...]
    is_truncated: bool
    attributes: tuple[dict[str, float], ...] = ()
    steps: tuple[float, ...] = ()

    @property
    def is_pair(self) -> bool:
        """Whether the first of two responses is the preferred one."""
        return len(self.scores) == 2 and isinstance(self.conversation, Pair | Ranking)

    @property
    def in_record_order(self) -> list[float]:
        """The scores in the record's own order of responses; of a pair the preferred one's first."""
        return self._in_record_order(self.scores)

    @property
    def attributes_in_record_order(self) -> list[dict[str, float]]:
        """The attributes in that order."""
        return self._in_record_order(self.attributes) if self.attributes else []

    def _in_record_order(self, values: Sequence[Value]) -> list[Value]:
        places = self.conversation.places if isinstance(self.conversation, Ranking) else None
        if places is None:
            return list(values)
        by_place = dict(zip(places, values, strict=True))
        return [by_place[place] for place in range(len(places))]


NOT_FINITE = "a score is not finite"


@dataclass(frozen=True, slots=True)
class NotScored:
    """A record that has no score: it cannot be used, or what the model says of it is no number.

    Attributes:
        reason: a short form of the message, to count by; NOT_FINITE where the model is at fault.
        message: its place and what is wrong with it, in one line.
    """

    reason: str
    message: str
