"""What became of a record that was to be scored."""

from dataclasses import dataclass

from modellink_rm.conversation import Conversation, Pair, Ranking


@dataclass(frozen=True, slots=True)
class Scored:
    """A record with its scores.

    Attributes:
        scores: of the conversation's responses, in its order: best first where there is a best.
        is_truncated: some tokens did not fit.
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
        """The scores as the record lists its responses; of a pair the preferred one's first."""
        places = self.conversation.places if isinstance(self.conversation, Ranking) else None
        if places is None:
            return list(self.scores)
        by_place = dict(zip(places, self.scores, strict=True))
        return [by_place[place] for place in range(len(places))]


@dataclass(frozen=True, slots=True)
class NotScored:
    """A record that cannot be used.

    Attributes:
        reason: a short form of the message, to count by.
        message: its place and what is wrong with it, in one line.
    """

    reason: str
    message: str
