"""HhRlhfPairwiseHandler: whole dialogues as text."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from modellink_rm.conversation import Message, Pair
from modellink_rm.handlers.dialogues import human_assistant_turns
from modellink_rm.handlers.fields import LabelledPairHandler, required_text
from modellink_rm.handlers.messages import alternating
from modellink_rm.handlers.registry import HANDLERS
from modellink_rm.records import RecordError


@dataclass(frozen=True, kw_only=True)
class HhRlhfPairwiseHandler(LabelledPairHandler):
    r"""chosen and rejected as "\n\nHuman: ...\n\nAssistant: ...", equal up to the last answer.

    The form of Anthropic's hh-rlhf. White space around a turn is removed.
    """

    chosen: str = "chosen"
    rejected: str = "rejected"

    required: ClassVar[tuple[str, ...]] = ("chosen", "rejected")
    answer_keys: ClassVar[tuple[str, ...]] = ("chosen", "rejected")

    def __call__(self, record: Mapping[str, Any]) -> Pair:
        """The pair of a record.

        Raises:
            RecordError: a text is not a dialogue that ends with an answer, or the prompts differ.
        """
        *prompt, chosen = self._turns(record, self.chosen)
        *other_prompt, rejected = self._turns(record, self.rejected)
        if prompt != other_prompt:
            raise RecordError("chosen and rejected have different prompts")
        return Pair(
            system=None,
            tools="",
            prompt=alternating(prompt, self.chosen),
            chosen=chosen,
            rejected=rejected,
            margin=self.margin_of(record),
            probability=self.probability_of(record),
            source=self.source_of(record),
        )

    def _turns(self, record: Mapping[str, Any], name: str) -> tuple[Message, ...]:
        turns = human_assistant_turns(required_text(self, record, name))
        if not turns or turns[-1].role != "assistant":
            reason = f"field {name!r} is not a dialogue of Human and Assistant that ends with an answer"
            raise RecordError(reason)
        return turns


HANDLERS.add(HhRlhfPairwiseHandler, HhRlhfPairwiseHandler.__name__)
