"""What vLLM's and SGLang's servers share: texts or ids as `input`, and the answer's outer form."""

import time
import uuid
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, Field, StrictInt, field_validator

from modellink_rm.serving.inputs import Encoded, InputReader
from modellink_rm.serving.routes.items import Items

Ids = Items[StrictInt] | Items[Items[StrictInt]]  # neither "5" nor true is an id
Input = str | Items[str] | Ids


class Usage(BaseModel):
    """Tokens of a request."""

    prompt_tokens: int
    total_tokens: int
    completion_tokens: int = 0


class InputRequest(BaseModel):
    """A request of rendered texts or token ids; any `model` is answered by the one that is served."""

    model: str | None = None
    input: Input = Field(
        description="rendered texts in which the template's control tokens count, or token ids"
    )
    add_special_tokens: bool = Field(True, description="begin with the BOS where the text does not")
    truncate_prompt_tokens: int | None = Field(
        None, description="keep so many of the last tokens; -1 for --seq-length"
    )

    @field_validator("truncate_prompt_tokens")
    @classmethod
    def _keeps_some(cls, value: int | None) -> int | None:
        if value is not None and value != -1 and value < 1:  # vLLM fails with 0: no token is left
            raise ValueError(f"must be at least 1, or -1 for all that --seq-length takes; got {value}")
        return value


def encoded(
    reader: InputReader,
    given: Input,
    *,
    route: str,
    adds_bos: bool = True,
    last_tokens: int | None = None,
    takes_steps: bool = False,
) -> list[Encoded]:
    """The token ids of an input's texts, or its ids; the arguments are those of `InputReader.rendered`.

    Raises:
        RecordError: one cannot be scored.
    """
    return [
        reader.rendered(
            item, route=route, adds_bos=adds_bos, last_tokens=last_tokens, takes_steps=takes_steps
        )
        if isinstance(item, str)
        else reader.ids(item, last_tokens=last_tokens, takes_steps=takes_steps)
        for item in items_of(given)
    ]


def items_of(given: Input) -> Sequence[str | list[int]]:
    """The texts and lists of ids of an input, which may be one of either."""
    if isinstance(given, str) or (given and isinstance(given[0], int)):
        return [given]
    return given  # type: ignore[return-value]


def usage_of(inputs: list[Encoded]) -> dict[str, Any]:
    """The usage of a request, as a dict."""
    number = sum(len(ids) for one in inputs for ids in one.sequences)
    return Usage(prompt_tokens=number, total_tokens=number).model_dump()


def listed(kind: str, model: str, data: list[dict[str, Any]], inputs: list[Encoded]) -> dict[str, Any]:
    """The answer that lists `data`, with an id of that kind."""
    return {
        "id": f"{kind}-{uuid.uuid4().hex}",
        "object": "list",
        "created": int(time.time()),
        "model": model,
        "data": data,
        "usage": usage_of(inputs),
    }
