"""RatedResponseHandler: a response with ratings of its attributes."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from modellink_rm.base.errors import UserError
from modellink_rm.conversation import Rated
from modellink_rm.handlers.fields import (
    ResponsesHandler,
    are_attributes,
    names_of,
    optional_number,
    required,
    tools_text,
)
from modellink_rm.handlers.messages import alternating, only_system_text, read_answer, read_messages
from modellink_rm.handlers.registry import HANDLERS


@dataclass(frozen=True, kw_only=True)
class RatedResponseHandler(ResponsesHandler):
    """prompt, response, and a number in the field of each attribute, for --loss-type regression.

    By default the attributes are those of HelpSteer and HelpSteer2 (arXiv 2406.08673), from 0 to 4. A number
    may be missing; a record without any trains nothing.
    The prompt is a text or a list of messages; the response is a text or a message.

    Attributes:
        attributes: names of the fields with commas between them, in the order of the model's outputs.
    """

    prompt: str = "prompt"
    system: str = "system"
    tools: str = "tools"
    response: str = "response"
    attributes: str = "helpfulness,correctness,coherence,complexity,verbosity"

    required: ClassVar[tuple[str, ...]] = ("prompt", "response")
    answer_keys: ClassVar[tuple[str, ...]] = ("response",)

    def __post_init__(self) -> None:
        if not are_attributes(self.rated_attributes):
            raise UserError(
                "--map-keys 'attributes' takes different names of letters, digits, _ and -, with commas "
                f"between them, got {self.attributes!r}"
            )

    @property
    def rated_attributes(self) -> tuple[str, ...]:
        """Names of the attributes, which are also those of their fields."""
        return names_of(self.attributes)

    def __call__(self, record: Mapping[str, Any]) -> Rated:
        """The response of a record with its ratings.

        Raises:
            RecordError: a field is missing or of another type.
        """
        prompt = read_messages(required(self, record, self.prompt), self.prompt, text_is="user")
        numbers = (optional_number(record, name) for name in self.rated_attributes)
        return Rated(
            system=only_system_text(record, self.system, prompt.system),
            tools=tools_text(record, self.tools),
            prompt=alternating(prompt.turns, self.prompt),
            response=read_answer(required(self, record, self.response), self.response),
            ratings=tuple(math.nan if number is None else number for number in numbers),
            source=self.source_of(record),
        )


HANDLERS.add(RatedResponseHandler, RatedResponseHandler.__name__)
