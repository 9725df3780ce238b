"""HhRlhfPairwiseHandler: whole dialogues as text."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from modellink_rm.conversation import Message, Pair
from modellink_rm.handlers.fields import PairwiseHandler, required_text
from modellink_rm.handlers.messages import alternating
from modellink_rm.records import RecordError

_SPEAKER = re.compile(r"\n\n(Human|Assistant):")


@dataclass(frozen=True, kw_only=True)
class HhRlhfPairwiseHandler(PairwiseHandler):
    r"""chosen and rejected as "\n\nHuman: ...\n\nAssistant: ...", the same up to the last answer.

    The form of Anthropic's hh-rlhf. White space around a turn is none of it.
    """

    chosen: str = "chosen"
    rejected: str = "rejected"

    required: ClassVar[tuple[str, ...]] = ("chosen", "rejected")

    def __call__(self, record: Mapping[str, Any]) -> Pair:
        """The pair of a record.

        Raises:
            RecordError: a text is no dialogue that ends with an answer, or they are of different prompts.
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
            source=self.source_of(record),
        )

    def _turns(self, record: Mapping[str, Any], name: str) -> list[Message]:
        text = required_text(self, record, name)
        # The first mark may have lost its empty lines.
        before, *parts = _SPEAKER.split("\n\n" + text.lstrip())
        speakers, contents = parts[::2], parts[1::2]
        if before.strip() or not speakers or speakers[-1] != "Assistant":
            reason = f"field {name!r} is no dialogue of Human and Assistant that ends with an answer"
            raise RecordError(reason)
        return [
            Message("user" if speaker == "Human" else "assistant", content.strip())
            for speaker, content in zip(speakers, contents, strict=True)
        ]
