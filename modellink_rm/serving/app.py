"""The application: every route, what errors answer, health and metrics."""

from collections.abc import Callable

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from modellink_rm.base.errors import UserError, limit_message
from modellink_rm.base.log import info
from modellink_rm.records import RecordError, shortened
from modellink_rm.serving.guard import Guard, Limits, error_body
from modellink_rm.serving.metrics import ServerMetrics
from modellink_rm.serving.routes import classify, embeddings, openrlhf, score, slime
from modellink_rm.serving.service import ScoringService, TooManyResponsesError, TryLaterError
from modellink_rm.serving.waiting import QueueClosedError
from modellink_rm.version import __version__

_ROUTES = (score, openrlhf, classify, embeddings, slime)


def build_app(
    service: ScoringService, metrics: ServerMetrics, limits: Limits, *, is_ready: Callable[[], bool]
) -> Guard:
    """The ASGI application of a server.

    Args:
        is_ready: whether new requests are welcome; False while the server ends.
    """
    app = FastAPI(title="modellink-rm", version=__version__, description="Scores of a reward model.")
    for module in _ROUTES:
        app.include_router(module.routes(service))

    @app.get("/health", tags=["operations"])
    @app.get("/health/ready", tags=["operations"])
    async def ready() -> Response:
        """200 while requests are welcome, else 503."""
        return JSONResponse({"ready": is_ready()}, status_code=200 if is_ready() else 503)

    @app.get("/health/live", tags=["operations"])
    async def live() -> dict[str, bool]:
        """200 while the process answers."""
        return {"live": True}

    @app.get("/metrics", tags=["operations"])
    async def prometheus() -> Response:
        """Counters, in Prometheus's text format."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    _add_errors(app)
    return Guard(app, limits, metrics, routes=frozenset(app.openapi()["paths"]), is_ready=is_ready)


def _add_errors(app: FastAPI) -> None:
    """One line for each kind of error."""

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return _refused(400, f"the body is not JSON, at character {first['loc'][-1]}")
        place = ".".join(str(part) for part in first["loc"][1:] if part not in score.TAGS)
        if not place and "json" not in request.headers.get("Content-Type", ""):
            return _refused(415, "send the header Content-Type: application/json")
        text = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            text = "unknown field; /docs lists those of each route"
        return _refused(422, f"{place}: {text}" if place else text)

    @app.exception_handler(RecordError)
    async def unusable(request: Request, error: RecordError) -> Response:
        return _refused(422, str(error))

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> Response:
        text = str(error.detail)
        if error.status_code == 400:  # which FastAPI says of what json cannot read, without a reason
            text = "the body is not JSON in UTF-8, without compression and deep nesting"
        if error.status_code == 404:
            text = f"{request.url.path} is no route; /docs lists them"
        return _refused(error.status_code, text, error.headers)

    @app.exception_handler(TooManyResponsesError)
    async def too_many(request: Request, error: TooManyResponsesError) -> Response:
        return _refused(413, str(error))

    @app.exception_handler(TryLaterError)
    async def later(request: Request, error: TryLaterError) -> Response:
        return _refused(429, str(error), {"Retry-After": str(error.seconds)})

    @app.exception_handler(QueueClosedError)
    async def closed(request: Request, error: QueueClosedError) -> Response:
        return _refused(503, "the server is stopping", {"Retry-After": "1"})

    @app.exception_handler(OSError)
    @app.exception_handler(RuntimeError)
    @app.exception_handler(UserError)
    async def failed(request: Request, error: Exception) -> Response:
        message = (limit_message(error) if isinstance(error, OSError) else None) or str(error)
        info(f"error: {request.url.path}: {shortened(message)}")
        return _refused(500, message)


def _refused(status: int, message: str, headers: object = None) -> Response:
    kept = dict(headers) if isinstance(headers, dict) else None
    return JSONResponse(error_body(status, shortened(message)), status_code=status, headers=kept)
