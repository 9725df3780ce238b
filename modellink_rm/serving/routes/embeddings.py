"""POST /v1/embeddings, as SGLang serves a reward model (--is-embedding), and GET /v1/models.

verl asks SGLang so (0.10.0.dev at 1dda039, 2026-08, verl/experimental/reward_loop/reward_loop.py) and reads
`data[-1].embedding[-1]`. OpenAI's own client asks for base64.
"""

import base64
from typing import Any, Literal

import numpy as np
from fastapi import APIRouter
from fastapi.responses import JSONResponse

from modellink_rm.serving.routes.openai import InputRequest, encoded, items_of, usage_of
from modellink_rm.serving.service import ScoringService

PATH = "/v1/embeddings"


class EmbeddingRequest(InputRequest):
    """Rendered texts or token ids, whose scores are asked for as embeddings of one number."""

    encoding_format: Literal["float", "base64"] = "float"


def routes(service: ScoringService) -> APIRouter:
    """The routes of a service."""
    router = APIRouter(tags=["SGLang"])

    @router.post(PATH)
    async def embeddings(body: EmbeddingRequest) -> Any:
        """The scores of rendered conversations, each as an embedding of one number."""
        inputs = await service.read(
            lambda reader: encoded(
                reader,
                body.input,
                route=PATH,
                adds_bos=body.add_special_tokens,
                last_tokens=body.truncate_prompt_tokens,
            ),
            num_responses=len(items_of(body.input)),
        )
        scores = [found[0] for found in await service.scores(inputs)]
        data = [
            {"object": "embedding", "index": index, "embedding": _embedding(score, body.encoding_format)}
            for index, score in enumerate(scores)
        ]
        return JSONResponse(
            {"object": "list", "data": data, "model": service.model_name, "usage": usage_of(inputs)}
        )

    @router.get("/v1/models")
    async def models() -> Any:
        """The model that is served."""
        entry = {"id": service.model_name, "object": "model", "owned_by": "modellink-rm"}
        return {"object": "list", "data": [entry]}

    return router


def _embedding(score: float, encoding_format: str) -> list[float] | str:
    if encoding_format == "base64":
        return base64.b64encode(np.array([score], dtype="<f4").tobytes()).decode()
    return [score]
