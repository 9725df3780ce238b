"""PromptResponseHandler: a prompt with unranked responses to score."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from modellink_rm.base.errors import UserError
from modellink_rm.conversation import Unranked
from modellink_rm.handlers.fields import (
    ResponsesHandler,
    required,
    tools_text,
    wrong_type,
)
from modellink_rm.handlers.messages import alternating, only_system_text, read_answer, read_messages
from modellink_rm.handlers.registry import HANDLERS
from modellink_rm.records import RecordError


@dataclass(frozen=True, kw_only=True)
class PromptResponseHandler(ResponsesHandler):
    """prompt with a response, or with a list of responses; for scoring, not for training.

    The prompt is a text or a list of messages; a response is a text or a message. System text is in the field
    `system` or in the first message, not in both.
    """

    prompt: str = "prompt"
    system: str = "system"
    tools: str = "tools"
    response: str = "response"
    responses: str = "responses"

    required: ClassVar[tuple[str, ...]] = ("prompt",)
    answer_keys: ClassVar[tuple[str, ...]] = ("response", "responses")

    def __post_init__(self) -> None:
        if not self.response and not self.responses:
            raise UserError("--map-keys switches off both 'response' and 'responses': one of them is needed")

    def __call__(self, record: Mapping[str, Any]) -> Unranked:
        """The prompt and the responses of a record.

        Raises:
            RecordError: a field is missing or of another type, or two fields contradict each other.
        """
        prompt = read_messages(required(self, record, self.prompt), self.prompt, text_is="user")
        system = only_system_text(record, self.system, prompt.system)
        names = [name for name in (self.response, self.responses) if name and record.get(name) is not None]
        if len(names) > 1:
            reason = f"both {self.response!r} and {self.responses!r}"
            raise RecordError(reason, f"a record has {reason}: give one of them")
        if not names:
            required(self, record, self.response or self.responses)
        if names == [self.response]:
            items, where = [record[self.response]], [self.response]
        else:
            items = record[self.responses]
            if not isinstance(items, list) or not items:
                raise wrong_type(self.responses, "a list of responses")
            where = [f"response {number + 1}" for number in range(len(items))]
        return Unranked(
            system=system,
            tools=tools_text(record, self.tools),
            prompt=alternating(prompt.turns, self.prompt),
            responses=tuple(map(read_answer, items, where)),
            source=self.source_of(record),
        )


HANDLERS.add(PromptResponseHandler, PromptResponseHandler.__name__)
