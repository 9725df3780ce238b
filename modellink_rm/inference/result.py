"""The results of scoring a record."""

from dataclasses import dataclass

from modellink_rm.conversation import Conversation, Pair, Ranking


@dataclass(frozen=True, slots=True)
class Scored:
    """A record with its scores.

    Attributes:
        scores: of the conversation's responses, in its order: best first if they are ranked.
        is_truncated: whether tokens were cut.
    """

    conversation: Conversation
    scores: tuple[float, ...]
    is_truncated: bool

    @property
    def is_pair(self) -> bool:
        """Whether the first of two responses is the preferred one."""
        return len(self.scores) == 2 and isinstance(self.conversation, Pair | Ranking)

    @property
    def in_record_order(self) -> list[float]:
        """The scores in the record's own order of responses; of a pair the preferred one's first."""
        places = self.conversation.places if isinstance(self.conversation, Ranking) else None
        if places is None:
            return list(self.scores)
        by_place = dict(zip(places, self.scores, strict=True))
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
