"""HelpSteerPairwiseHandler: two responses and how strongly one is preferred."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from modellink_rm.conversation import Message, Pair
from modellink_rm.handlers.fields import PairwiseHandler, required, required_number, required_text, tie
from modellink_rm.handlers.messages import alternating, read_messages
from modellink_rm.handlers.registry import HANDLERS


@dataclass(frozen=True, kw_only=True)
class HelpSteerPairwiseHandler(PairwiseHandler):
    """prompt, response1, response2, and a strength: below 0 for the first, above 0 for the second, 0 a tie.

    The scale of HelpSteer2 (preference_strength) and HelpSteer3 (overall_preference) is -3 to 3; its absolute
    value is the margin unless `margin` names a field. The prompt is a text or a list of messages.
    """

    prompt: str = "prompt"
    response1: str = "response1"
    response2: str = "response2"
    strength: str = "preference_strength"

    required: ClassVar[tuple[str, ...]] = ("prompt", "response1", "response2", "strength")
    answer_keys: ClassVar[tuple[str, ...]] = ("response1", "response2")

    def __call__(self, record: Mapping[str, Any]) -> Pair:
        """The pair of a record.

        Raises:
            RecordError: a field is missing or of another type, or neither response is preferred.
        """
        first, second = (required_text(self, record, name) for name in (self.response1, self.response2))
        strength = required_number(self, record, self.strength)
        if strength == 0:
            raise tie(f"field {self.strength!r} is 0")
        chosen, rejected = (first, second) if strength < 0 else (second, first)
        prompt = read_messages(required(self, record, self.prompt), self.prompt, text_is="user")
        return Pair(
            system=prompt.system or None,
            tools="",
            prompt=alternating(prompt.turns, self.prompt),
            chosen=Message("assistant", chosen),
            rejected=Message("assistant", rejected),
            margin=self.margin_of(record) if self.margin else abs(strength),
            probability=self.probability_of(record),
            source=self.source_of(record),
        )


HANDLERS.add(HelpSteerPairwiseHandler, HelpSteerPairwiseHandler.__name__)
