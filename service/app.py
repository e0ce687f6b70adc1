"""create_app(settings): the service as a plain ASGI application, for any server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import torch
from fastapi import FastAPI, Request
from fastapi.responses import RedirectResponse
from fastapi.routing import APIRoute
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.routing import Mount, Route, Router
from starlette.types import ASGIApp

from classifier import __version__
from service.errors import ERRORS, error_response
from service.metrics import CONTENT_TYPE, Metrics
from service.middleware import ApiKeyMiddleware, RequestMiddleware
from service.model_store import ModelStore, NotReady
from service.predictions import Predictions
from service.schemas import (
    BATCH_PROBLEMS,
    HEALTH_PROBLEMS,
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

DRAINING = "draining"  # ASGI extension: the server has got SIGTERM and still answers requests


def create_app(settings: Settings) -> ASGIApp:
    """The service. It loads its model in its lifespan and stays up without one."""
    metrics = Metrics(settings.metrics)
    models = ModelStore(settings, metrics)
    predictions = Predictions(settings, metrics, models)

    @asynccontextmanager
    async def lifespan(app: object) -> AsyncIterator[None]:
        torch.set_num_threads(settings.threads)
        loading = asyncio.create_task(models.load())
        if settings.workers > 1:
            await loading  # the other workers answer meanwhile
        watching = asyncio.create_task(models.watch())
        yield
        watching.cancel()
        await loading
        models.close()
        predictions.close()

    api = create_api(settings, metrics, models)
    predict = AsgiRoute("/predict", predictions.predict, response_model=Prediction, responses=PREDICT_PROBLEMS,
                        openapi_extra=UPLOAD, tags=["predictions"])  # fmt: skip
    api.router.routes.append(predict)
    api.post("/predict/batch", response_model=Batch, responses=BATCH_PROBLEMS, openapi_extra=UPLOADS,
             tags=["predictions"])(predictions.predict_batch)  # fmt: skip

    # The route comes before FastAPI, whose layers took 35 µs a request and this Router 4 µs (two shared CPU cores).
    app: ASGIApp = Router([predict, Mount("/", api)], lifespan=lifespan)
    if settings.api_key:
        app = ApiKeyMiddleware(app, settings.api_key.get_secret_value(), metrics)
    if settings.cors_origins:
        app = CORSMiddleware(
            app,
            settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["X-Request-ID", "Retry-After"],
        )
    routes = {route.path for route in api.routes if isinstance(route, Route)}
    return RequestMiddleware(app, routes, metrics, settings.access_log)


class AsgiRoute(APIRoute):
    """A route to an ASGI endpoint: FastAPI documents it, but does not parse its requests or serialise its answers."""

    def __init__(self, path: str, endpoint: ASGIApp, **documentation: Any) -> None:
        name = getattr(endpoint, "__name__", "endpoint")
        super().__init__(path, lambda: None, methods=["POST"], name=name, description=endpoint.__doc__, **documentation)
        self.app = endpoint


def create_api(settings: Settings, metrics: Metrics, models: ModelStore) -> FastAPI:
    """FastAPI's part of the app: health, metrics, documentation, errors."""
    about: dict[str, Any] = {
        "title": "Fashion-MNIST classifier",
        "description": "Upload a picture of a garment, get back its Fashion-MNIST class and the probabilities.",
        "version": __version__,
        "redoc_url": None,
    }
    api = FastAPIOffline(**about) if settings.docs else FastAPI(**about, docs_url=None, openapi_url=None)

    async def handle(request: Request, error: Exception) -> Response:
        return error_response(request.scope, error, metrics)

    for kind in (*ERRORS, HTTPException, Exception):
        api.add_exception_handler(kind, handle)

    @api.head("/health", include_in_schema=False)
    @api.get("/health", tags=["health"], responses=HEALTH_PROBLEMS, response_model_exclude_none=True)
    async def health(request: Request) -> Health:
        """Readiness: a model is loaded and has answered a test picture, and the service is not about to stop."""
        if DRAINING in request.scope.get("extensions", {}):
            raise NotReady("The service is about to stop.")
        classifier = models.current().classifier
        return Health(
            status="ok",
            device=classifier.device.type,
            runtime=classifier.runtime,
            model=classifier.model,
            refused=models.refusal,
        )

    @api.get("/health/live", tags=["health"])
    async def live() -> Liveness:
        """Liveness: the process answers, with or without a model."""
        return Liveness(status="alive")

    @api.get("/", include_in_schema=False)
    async def root() -> RedirectResponse:
        return RedirectResponse("docs")

    if settings.metrics:

        @api.get("/metrics", include_in_schema=False)
        async def page() -> Response:
            return Response(await metrics.page(), media_type=CONTENT_TYPE)

    described = api.openapi
    api.openapi = lambda: complete(described(), settings.api_key is not None)  # type: ignore[method-assign]
    return api
