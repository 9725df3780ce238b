"""POST /get_reward, as OpenRLHF's trainers ask a remote reward model.

The client is `SingleTurnAgentExecutor._fetch_rewards_via_http` of OpenRLHF 0.11.0 (openrlhf/utils/agent.py),
the server that it is written for openrlhf/cli/serve_rm.py.
"""

from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from modellink_rm.serving.routes.items import Items
from modellink_rm.serving.service import ScoringService

PATH = "/get_reward"


class Queries(BaseModel):
    """Whole conversations; `prompts` and `labels`, which the client also sends, are not needed."""

    query: str | Items[str] = Field(description="rendered texts, with every special token written out")


class Rewards(BaseModel):
    """The rewards of the queries, in their order, twice: the client reads both."""

    rewards: list[float]
    scores: list[float]
    extra_logs: dict[str, list[float]]


def routes(service: ScoringService) -> APIRouter:
    """The route of a service."""
    router = APIRouter(tags=["OpenRLHF"])

    @router.post(PATH, response_model=Rewards)
    async def get_reward(body: Queries) -> Any:
        """The rewards of rendered conversations."""
        texts = [body.query] if isinstance(body.query, str) else body.query
        inputs = await service.read(
            lambda reader: [reader.rendered(text, route=PATH) for text in texts], num_responses=len(texts)
        )
        rewards = [scores[0] for scores in await service.scores(inputs)]
        return JSONResponse({"rewards": rewards, "scores": rewards, "extra_logs": {}})

    return router
