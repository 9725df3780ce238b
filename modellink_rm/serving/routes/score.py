"""POST /v1/score: this package's own route, on which messages stay text."""

from typing import Annotated, Any

from fastapi import APIRouter, Body
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from modellink_rm.metrics.steps import AGGREGATES, probability_of
from modellink_rm.records import RecordError
from modellink_rm.serving.inputs import Encoded, InputReader
from modellink_rm.serving.routes.items import Items
from modellink_rm.serving.service import ScoringService

Message = dict[str, Any]
_FORMS = (
    *({"messages"}, {"prompt", "response"}, {"prompt", "responses"}, {"prompt", "chosen", "rejected"}),
    {"prompt", "completions"},
)
_FORMS_TEXT = (
    "messages; prompt and response; prompt and responses; chosen and rejected, with or without prompt; or "
    "prompt and completions"
)
_EXAMPLES: list[Any] = [
    {"messages": [{"role": "user", "content": "Name a prime."}, {"role": "assistant", "content": "7"}]},
    {"prompt": "Name a prime.", "response": "7"},
    {"prompt": "Name a prime.", "responses": ["7", "8"]},
    {"prompt": "Name a prime.", "chosen": "7", "rejected": "8"},
    {"prompt": "Name a prime.", "completions": ["8 has the divisor 2.", "7 has none: 7."]},
]


class Conversation(BaseModel):
    """A conversation with one answer or several, or with an answer in steps."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": _EXAMPLES})

    messages: Items[Message] | None = Field(None, description="with role and content; the last is the answer")
    prompt: str | Items[Message] | None = Field(None, description="a text, or messages up to the answer")
    response: str | Message | None = Field(None, description="a text, or a message of the assistant")
    responses: Items[str | Message] | None = Field(None, description="several answers to one prompt")
    chosen: str | Message | Items[Message] | None = Field(None, description="the preferred answer of a pair")
    rejected: str | Message | Items[Message] | None = Field(None, description="the other answer of a pair")
    completions: Items[str] | None = Field(None, description="the steps of one answer, for a model of steps")
    system: str | None = Field(None, description="the system text, where no message has it")
    tools: str | list[Any] | None = Field(None, description="descriptions of tools, as in the training data")

    @property
    def num_responses(self) -> int:
        """How many answers it has."""
        return len(self.responses) if self.responses is not None else 1 + (self.chosen is not None)

    @model_validator(mode="before")
    @classmethod
    def _has_one_unknown_field_at_most(cls, value: Any) -> Any:
        """The value without unknown fields beyond the first, which is the one that an answer tells."""
        if not isinstance(value, dict):
            return value
        unknown = set([name for name in value if name not in cls.model_fields][1:])
        return {name: part for name, part in value.items() if name not in unknown}

    @model_validator(mode="after")
    def _has_one_form(self) -> "Conversation":
        given = {name for name in set().union(*_FORMS) if getattr(self, name) is not None}
        if given not in _FORMS and given != {"chosen", "rejected"}:
            raise ValueError(f"give {_FORMS_TEXT}; got {', '.join(sorted(given)) or 'none of them'}")
        return self


class Scores(BaseModel):
    """The scores of a conversation.

    Attributes:
        score: of its answer.
        scores: of its answers, in their order; of a pair the chosen one's first.
        step_scores: of an answer in steps, the probability that each is right.
        truncated: tokens were cut, as in training.
    """

    score: float | None = None
    scores: list[float] | None = None
    step_scores: list[float] | None = None
    truncated: bool | None = None


TAGS = ("one", "several")  # in the places of validation errors
Conversations = Annotated[
    Annotated[Conversation, Tag(TAGS[0])] | Annotated[Items[Conversation], Tag(TAGS[1])],
    Discriminator(lambda value: TAGS[isinstance(value, list)]),
    Body(),
]


def routes(service: ScoringService) -> APIRouter:
    """The route of a service."""
    router = APIRouter(tags=["modellink-rm"])

    @router.post("/v1/score", response_model=Scores | list[Scores], response_model_exclude_none=True)
    async def score(body: Conversations) -> Any:
        """The scores of one conversation, or of each of a list."""
        conversations = body if isinstance(body, list) else [body]
        inputs = await service.read(
            lambda reader: _encoded(reader, conversations, names=isinstance(body, list)),
            num_responses=sum(conversation.num_responses for conversation in conversations),
        )
        scores = await service.scores(inputs)
        answers = [
            _answer(conversation, one, found, aggregate=service.step_aggregate)
            for conversation, one, found in zip(conversations, inputs, scores, strict=True)
        ]
        return JSONResponse(answers if isinstance(body, list) else answers[0])

    return router


def _encoded(reader: InputReader, conversations: list[Conversation], *, names: bool) -> list[Encoded]:
    """The token ids of each conversation; an error names the one that it is about.

    Raises:
        RecordError: one cannot be read.
    """
    inputs = []
    for index, conversation in enumerate(conversations):
        try:
            inputs.append(reader.conversation(conversation.model_dump(exclude_none=True)))
        except RecordError as error:
            raise RecordError(
                error.reason, f"conversation {index}: {error}" if names else str(error)
            ) from None
    return inputs


def _answer(
    conversation: Conversation, encoded: Encoded, scores: list[float], *, aggregate: str
) -> dict[str, Any]:
    is_single = conversation.responses is None and conversation.chosen is None
    answer: dict[str, Any] = {"score": scores[0]} if is_single else {"scores": scores}
    if encoded.step_ends is not None:
        steps = [probability_of(score) for score in scores]
        answer = {"score": AGGREGATES[aggregate](steps), "step_scores": steps}
    return {**answer, "truncated": True} if encoded.is_truncated else answer
