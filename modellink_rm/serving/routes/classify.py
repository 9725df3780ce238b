"""POST /classify and /pooling, as vLLM and SGLang answer them for a reward model.

vLLM 0.32.0: vllm/entrypoints/pooling/{classify,pooling}/protocol.py. verl asks it so (0.10.0.dev at 1dda039,
2026-08, verl/experimental/reward_loop/reward_loop.py): rendered text without its BOS, `use_activation` false
(`activation` before vLLM 0.11.2), and reads `data[-1].probs[-1]`. SGLang's own /classify takes `text` or
`input_ids` (its documentation, SGLang Native APIs) and answers with an `embedding`.
"""

import uuid
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field, model_validator

from modellink_rm.metrics.steps import probability_of
from modellink_rm.serving.inputs import Encoded, InputReader
from modellink_rm.serving.routes.items import Items
from modellink_rm.serving.routes.openai import Ids, Input, InputRequest, encoded, items_of, listed
from modellink_rm.serving.service import ScoringService

_SOURCES = ("input", "messages", "text", "input_ids")


class ClassifyRequest(InputRequest):
    """A request in vLLM's form (`input` or `messages`) or in SGLang's (`text` or `input_ids`)."""

    input: Input | None = Field(None, description="vLLM: rendered texts, or token ids")  # type: ignore[assignment]
    messages: Items[dict[str, Any]] | None = Field(None, description="vLLM: a conversation up to its answer")
    text: str | Items[str] | None = Field(None, description="SGLang: rendered texts")
    input_ids: Ids | None = Field(None, description="SGLang: token ids")
    use_activation: bool | None = Field(None, description="no effect: scores are never squashed")
    activation: bool | None = Field(None, description="the name of use_activation before vLLM 0.11.2")

    @model_validator(mode="after")
    def _has_one_source(self) -> "ClassifyRequest":
        given = [name for name in _SOURCES if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"give one of {', '.join(_SOURCES)}; got {' and '.join(given) or 'none of them'}"
            )
        # -1 asks for no more than what is done to messages anyway
        if self.messages is not None and self.truncate_prompt_tokens not in (None, -1):
            raise ValueError(
                "truncate_prompt_tokens is of rendered texts and ids: messages are truncated as in training"
            )
        return self

    @property
    def num_inputs(self) -> int:
        """How many conversations it asks for."""
        return 1 if self.messages is not None else len(items_of(self._given))

    def encoded(self, reader: InputReader, route: str, *, takes_steps: bool = False) -> list[Encoded]:
        """The token ids of what is asked.

        Raises:
            RecordError: it cannot be scored.
        """
        if self.messages is not None:
            return [reader.conversation({"messages": self.messages})]
        return encoded(
            reader,
            self._given,
            route=route,
            adds_bos=self.add_special_tokens,
            last_tokens=self.truncate_prompt_tokens,
            takes_steps=takes_steps,
        )

    @property
    def _given(self) -> Input:
        """What there is without messages: texts or ids."""
        given: Input | None = self.input
        given = self.text if given is None else given
        given = self.input_ids if given is None else given
        assert given is not None
        return given


class Classification(BaseModel):
    """The score of one input, where a classifier's probabilities are."""

    index: int
    label: str
    probs: list[float]
    num_classes: int


class Pooled(BaseModel):
    """The score of one input, as pooled data; of a model of steps both labels' probabilities of each."""

    index: int
    object: str = "pooling"
    data: list[float] | list[list[float]]


def routes(service: ScoringService) -> APIRouter:
    """The routes of a service."""
    router = APIRouter(tags=["vLLM and SGLang"])

    @router.post("/classify")
    async def classify(body: ClassifyRequest) -> Any:
        """The scores of rendered conversations: vLLM's answer, or SGLang's to `text` and `input_ids`."""
        inputs = await service.read(
            lambda reader: body.encoded(reader, "/classify"), num_responses=body.num_inputs
        )
        scores = [found[0] for found in await service.scores(inputs)]
        if body.text is not None or body.input_ids is not None:
            return JSONResponse(_embeddings(body, inputs, scores))
        data = [
            Classification(index=index, label="LABEL_0", probs=[score], num_classes=1).model_dump()
            for index, score in enumerate(scores)
        ]
        return JSONResponse(listed("classify", service.model_name, data, inputs))

    @router.post("/pooling")
    async def pooling(body: ClassifyRequest) -> Any:
        """The scores of rendered conversations, as vLLM's pooled data."""
        inputs = await service.read(
            lambda reader: body.encoded(reader, "/pooling", takes_steps=True), num_responses=body.num_inputs
        )
        found = zip(inputs, await service.scores(inputs), strict=True)
        data = [
            Pooled(index=index, data=_pooled(one, scores)).model_dump()
            for index, (one, scores) in enumerate(found)
        ]
        return JSONResponse(listed("pool", service.model_name, data, inputs))

    return router


def _pooled(one: Encoded, scores: list[float]) -> list[float] | list[list[float]]:
    """The score, or (wrong, right) of each step, as vLLM's pooling type STEP gives them."""
    if one.step_ends is None:
        return scores
    return [[probability_of(-score), probability_of(score)] for score in scores]


def _embeddings(body: ClassifyRequest, inputs: list[Encoded], scores: list[float]) -> Any:
    """SGLang's answer: a list for a list, one object for a single text or its ids."""
    answers = [
        {
            "embedding": [score],
            "meta_info": {
                "id": uuid.uuid4().hex,
                "finish_reason": None,
                "prompt_tokens": len(one.sequences[0]),
            },
        }
        for one, score in zip(inputs, scores, strict=True)
    ]
    given = body.text if body.text is not None else body.input_ids
    is_single = isinstance(given, str) or (bool(given) and isinstance(given[0], int))  # type: ignore[index]
    return answers[0] if is_single else answers
