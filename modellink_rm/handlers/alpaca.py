"""AlpacaStylePairwiseHandler."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from modellink_rm.conversation import Message, Pair
from modellink_rm.handlers.fields import (
    LabelledPairHandler,
    empty_prompt,
    missing,
    optional_text,
    required_text,
    wrong_type,
)
from modellink_rm.handlers.registry import HANDLERS


@dataclass(frozen=True, kw_only=True)
class AlpacaStylePairwiseHandler(LabelledPairHandler):
    """instruction, input, history and system, with chosen and rejected answers."""

    prompt: str = "instruction"
    query: str = "input"
    response: str = "output"
    history: str = ""
    system: str = ""
    chosen: str = "chosen"
    rejected: str = "rejected"

    required: ClassVar[tuple[str, ...]] = ("prompt", "chosen", "rejected")
    answer_keys: ClassVar[tuple[str, ...]] = ("chosen", "rejected", "response")

    def __call__(self, record: Mapping[str, Any]) -> Pair:
        """The pair of a record.

        Raises:
            RecordError: a field is missing or of another type.
        """
        if self.prompt not in record:
            raise missing(self, self.prompt)
        parts = [optional_text(record, self.prompt), optional_text(record, self.query)]
        question = "\n".join(part for part in parts if part)
        if not question:
            raise empty_prompt(self.prompt)
        chosen, rejected = self._answers(record)
        return Pair(
            system=optional_text(record, self.system) or None,
            tools="",
            prompt=(*self._earlier_turns(record), Message("user", question)),
            chosen=Message("assistant", chosen),
            rejected=Message("assistant", rejected),
            margin=self.margin_of(record),
            probability=self.probability_of(record),
            source=self.source_of(record),
        )

    def _answers(self, record: Mapping[str, Any]) -> tuple[str, str]:
        both = record.get(self.response) if self.response else None
        if isinstance(both, list) and self.chosen not in record and self.rejected not in record:
            # The older form of such data: the response is a list, the better answer first.
            if [type(answer) for answer in both] != [str, str]:
                raise wrong_type(self.response, "a list of two texts, the better one first")
            return both[0], both[1]
        return required_text(self, record, self.chosen), required_text(self, record, self.rejected)

    def _earlier_turns(self, record: Mapping[str, Any]) -> list[Message]:
        history = record.get(self.history) if self.history else None
        if history is None:
            return []
        turns = []
        for exchange in history if isinstance(history, list) else [history]:
            if not isinstance(exchange, list) or [type(text) for text in exchange] != [str, str]:
                raise wrong_type(self.history, "a list of [question, answer] texts")
            turns += [Message("user", exchange[0]), Message("assistant", exchange[1])]
        return turns


HANDLERS.add(AlpacaStylePairwiseHandler, AlpacaStylePairwiseHandler.__name__)
