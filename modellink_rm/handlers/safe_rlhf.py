"""SafeRlhfPairwiseHandler: two responses and the number of the better one."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from modellink_rm.conversation import Message, Pair
from modellink_rm.handlers.fields import (
    PairwiseHandler,
    question_text,
    required_number,
    required_text,
    tie,
)
from modellink_rm.handlers.registry import HANDLERS
from modellink_rm.records import RecordError


@dataclass(frozen=True, kw_only=True)
class SafeRlhfPairwiseHandler(PairwiseHandler):
    """prompt, response_0 and response_1, and the number of the better one: PKU-SafeRLHF.

    The key `preferred` names the field that decides: better_response_id or safer_response_id.
    """

    prompt: str = "prompt"
    response_0: str = "response_0"
    response_1: str = "response_1"
    preferred: str = "better_response_id"

    required: ClassVar[tuple[str, ...]] = ("prompt", "response_0", "response_1", "preferred")
    answer_keys: ClassVar[tuple[str, ...]] = ("response_0", "response_1")

    def __call__(self, record: Mapping[str, Any]) -> Pair:
        """The pair of a record.

        Raises:
            RecordError: a field is missing or of another type, or neither response is preferred.
        """
        responses = [required_text(self, record, name) for name in (self.response_0, self.response_1)]
        index = required_number(self, record, self.preferred)
        if index == -1:
            raise tie(f"field {self.preferred!r} is -1")
        if index not in (0, 1):
            raise RecordError(f"field {self.preferred!r} must be 0 or 1")
        chosen, rejected = responses if index == 0 else responses[::-1]
        return Pair(
            system=None,
            tools="",
            prompt=(Message("user", question_text(self, record, self.prompt)),),
            chosen=Message("assistant", chosen),
            rejected=Message("assistant", rejected),
            margin=self.margin_of(record),
            probability=self.probability_of(record),
            source=self.source_of(record),
        )


HANDLERS.add(SafeRlhfPairwiseHandler, SafeRlhfPairwiseHandler.__name__)
