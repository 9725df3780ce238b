"""POST /slime, the URL for slime's --rm-type remote_rm: a sample in, its reward as a number out.

The client is `remote_rm` of slime at 624b824 (2026-08, slime/rollout/rm_hub/__init__.py). A prompt is the
text that the policy reads, rendered where slime's --apply-chat-template is given, or messages; a response is
what the policy wrote, with the token that ends it.
"""

from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from modellink_rm.serving.inputs import Encoded, InputReader
from modellink_rm.serving.routes.items import Items
from modellink_rm.serving.service import ScoringService

PATH = "/slime"


class Sample(BaseModel):
    """A prompt with its response; its label is not needed."""

    prompt: str | Items[dict[str, Any]] = Field(description="a rendered text, or messages")
    response: str


def routes(service: ScoringService) -> APIRouter:
    """The route of a service."""
    router = APIRouter(tags=["slime"])

    @router.post(PATH, response_model=float)
    async def remote_rm(body: Sample) -> Any:
        """The reward of a sample."""
        encoded = await service.read(lambda reader: _encoded(reader, body), num_responses=1)
        ((reward,),) = await service.scores([encoded])
        return JSONResponse(reward)

    return router


def _encoded(reader: InputReader, sample: Sample) -> Encoded:
    if isinstance(sample.prompt, str):
        return reader.rendered(sample.prompt + sample.response, route=PATH)
    return reader.conversation({"prompt": sample.prompt, "response": reader.answer_text(sample.response)})
