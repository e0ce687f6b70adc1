"""create_app(settings): lifespan, routes, error mapping."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import Any

import torch
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, RedirectResponse
from fastapi_offline import FastAPIOffline
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope

from classifier import __version__, picture
from classifier.classifier import Prediction as PredictionDict
from service import uploads
from service.batcher import Batcher, Overloaded
from service.drain import Drain
from service.memory import keep_large_apart, tidy
from service.metrics import CONTENT_TYPE, Metrics
from service.middleware import Middleware
from service.protocol import HASTY, OVERLOADED, REQUEST_SECONDS, RETRY_AFTER_SECONDS, TASKS
from service.reload import NotReady, Reloader, Unavailable
from service.schemas import (
    BATCH_PROBLEMS,
    HEALTH_PROBLEMS,
    INTERNAL_ERROR,
    PREDICT_PROBLEMS,
    UPLOAD,
    UPLOADS,
    Batch,
    Health,
    Liveness,
    Prediction,
    complete,
)
from service.settings import Settings

UNFORESEEN = "An error that no one foresaw."

logger = logging.getLogger(__name__)

STATUS: dict[type[Exception], int] = {  # the one place where an error becomes a status
    picture.BrokenPicture: 400,
    picture.PictureTooLarge: 413,
    picture.UnsupportedPicture: 415,
    uploads.BrokenUpload: 400,
    uploads.UploadTooLarge: 413,
    uploads.MissingFile: 422,
    Unavailable: 503,
}
REFUSALS = tuple(STATUS)
HTTP_SENTENCES = {
    404: "There is nothing at this address; /docs lists what there is.",
    405: "This address does not take that method; /docs lists what it takes.",
}


def create_app(settings: Settings) -> ASGIApp:
    """The service as an ASGI application. It loads its model when it starts and stays up without one."""
    metrics = Metrics(settings.metrics)
    reloader = Reloader(settings, metrics)
    batcher = Batcher(settings, metrics, reloader)
    drain = Drain(settings.drain_seconds, supervised=settings.workers > 1)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, float]]:
        torch.set_num_threads(settings.threads)
        keep_large_apart()
        drain.listen()
        loading = asyncio.create_task(reloader.load())
        if settings.workers > 1:
            await loading  # the others answer meanwhile
        background = [asyncio.create_task(reloader.watch()), asyncio.create_task(tidy(batcher.inside))]
        yield {REQUEST_SECONDS: settings.request_seconds}
        for task in background:
            task.cancel()
        await loading
        reloader.close()
        batcher.close()

    def refuse(scope: Scope, error: Exception) -> Response:
        if isinstance(error, Overloaded):
            scope["state"][OVERLOADED] = True
        metrics.rejected.labels(type(error).__name__).inc()
        return refusal(error)

    async def handle(request: Request, error: Exception) -> Response:
        return refuse(request.scope, error)

    about: dict[str, Any] = {
        "title": "Fashion-MNIST classifier",
        "description": "Upload a picture of a garment, get back its Fashion-MNIST class and the probabilities.",
        "version": __version__,
        "lifespan": lifespan,
        "redoc_url": None,
    }
    app = FastAPIOffline(**about) if settings.docs else FastAPI(**about, docs_url=None, openapi_url=None)
    for error in REFUSALS:
        app.add_exception_handler(error, handle)
    app.add_exception_handler(HTTPException, refuse_http)
    app.add_exception_handler(Exception, refuse_internal)

    async def answer(scope: Scope, receive: Receive) -> bytes | Response:
        try:
            batcher.check(hasty=HASTY in scope["state"])
            content = await uploads.read(scope, receive, settings.max_upload_bytes)
            batcher.check()  # others may have come meanwhile
            alone = len(scope["state"].get(TASKS, ())) == 1
            return to_json(await batcher.predict(content, alone=alone))
        except REFUSALS as error:
            return refuse(scope, error)
        except Exception:  # FastAPI's own net is not under this way
            logger.exception(UNFORESEEN)
            return internal()

    @app.post(
        "/predict", tags=["predictions"], response_model=Prediction, responses=PREDICT_PROBLEMS, openapi_extra=UPLOAD
    )
    async def predict(request: Request) -> Response:
        """The Fashion-MNIST class of a picture: PNG, JPEG, WebP, GIF (first frame) or BMP."""
        content = await answer(request.scope, request.receive)
        return Response(content, media_type="application/json") if isinstance(content, bytes) else content

    @app.post(
        "/predict/batch", tags=["predictions"], response_model=Batch, responses=BATCH_PROBLEMS, openapi_extra=UPLOADS
    )
    async def predict_batch(request: Request) -> Response:
        """The classes of several pictures, in their order; a picture that is refused costs the others nothing."""
        batcher.check(hasty=HASTY in request.scope["state"])
        contents = await uploads.read_several(
            request.scope, request.receive, settings.max_upload_bytes, settings.max_files
        )
        predictions: list[PredictionDict | dict[str, Any]] = []
        answers = (batcher.predict(content, together=True) for content in contents)
        for result in await asyncio.gather(*answers, return_exceptions=True):
            if isinstance(result, REFUSALS):
                metrics.rejected.labels(type(result).__name__).inc()
                predictions.append({"detail": str(result), "status": status_of(result)})
            elif isinstance(result, BaseException):
                logger.error(UNFORESEEN, exc_info=result)
                return internal()
            else:
                predictions.append(result)
        return Response(to_json({"predictions": predictions}), media_type="application/json")

    @app.head("/health", include_in_schema=False)
    @app.get("/health", tags=["health"], responses=HEALTH_PROBLEMS, response_model_exclude_none=True)
    async def health() -> Health:
        """Whether pictures are answered: a model is loaded and has answered a test picture."""
        if drain.active:
            raise NotReady("The service is about to stop.")
        classifier = reloader.model.classifier
        return Health(status="ok", device=classifier.device.type, model=classifier.model, refused=reloader.refusal)

    @app.get("/health/live", tags=["health"])
    async def live() -> Liveness:
        """Whether the process answers, with or without a model."""
        return Liveness(status="alive")

    @app.get("/", include_in_schema=False)
    async def root() -> RedirectResponse:
        return RedirectResponse("docs")

    if settings.metrics:

        @app.get("/metrics", include_in_schema=False)
        async def page() -> Response:
            return Response(await metrics.page(), media_type=CONTENT_TYPE)

    described = app.openapi
    app.openapi = lambda: complete(described(), settings.api_key is not None)  # type: ignore[method-assign]
    return Middleware(app, answer, settings, metrics, drain)


def status_of(error: Exception) -> int:
    return next(status for kind, status in STATUS.items() if isinstance(error, kind))


def refusal(error: Exception) -> Response:
    """The error's own sentence, written for clients, with the status that STATUS gives its class."""
    status = status_of(error)
    return unavailable(str(error)) if status == 503 else JSONResponse({"detail": str(error)}, status)


@lru_cache(maxsize=16)
def unavailable(sentence: str) -> Response:
    """Made once: under overload most answers are this one, and what it costs delays the others."""
    return JSONResponse({"detail": sentence}, 503, {"Retry-After": str(RETRY_AFTER_SECONDS)})


async def refuse_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    sentence = HTTP_SENTENCES.get(error.status_code, f"{error.detail}.")
    return JSONResponse({"detail": sentence}, error.status_code, error.headers)


async def refuse_internal(request: Request, error: Exception) -> Response:
    return internal()


def internal() -> Response:
    return JSONResponse({"detail": INTERNAL_ERROR}, 500)
