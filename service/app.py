"""create_app(settings): the service as a plain ASGI application, for any server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import torch
from fastapi import FastAPI, Request
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Mount, Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from classifier import __version__
from service import documentation, page_files
from service.errors import ERRORS, error_response
from service.metrics import Metrics
from service.middleware import ApiKeyMiddleware, Cors, RequestMiddleware
from service.model_cards import ModelCards
from service.model_store import ModelStore, NotReady
from service.page_schemas import MODEL_ANSWERS, ExplainedPrediction, ModelPage
from service.predictions import Predictions
from service.schemas import (
    BATCH_PROBLEMS,
    HEALTH_PROBLEMS,
    OPEN,
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
from service.uploads import refusal_of

LOAD_SECONDS = 30.0  # that the start of one of several workers waits for its model; a file may hang
DRAINING = "draining"  # ASGI extension: the server has got SIGTERM and still answers requests


def create_app(settings: Settings) -> ASGIApp:
    """The service. It loads its model in its lifespan and stays up without one."""
    metrics = Metrics(settings.metrics)
    models, photos = ModelStore(settings, metrics), ModelStore(settings, metrics, photos=True)
    predictions = Predictions(settings, metrics, models, photos)
    page = page_files.read_files() if settings.page else {}

    async def load() -> None:
        """Loads the photo network first, so that the service is not ready without it; its file may hang."""
        await asyncio.wait({asyncio.create_task(photos.load())}, timeout=LOAD_SECONDS)
        await models.load()

    @asynccontextmanager
    async def lifespan(app: object) -> AsyncIterator[None]:
        torch.set_num_threads(settings.threads)
        loading = asyncio.create_task(load())
        if settings.workers > 1:
            await asyncio.wait({loading}, timeout=LOAD_SECONDS)  # the other workers answer meanwhile
        tasks = [loading, *(asyncio.create_task(store.watch()) for store in (models, photos))]
        yield
        for task in tasks:
            task.cancel()
        models.close()
        photos.close()
        predictions.close()

    api = create_api(settings, metrics, models, photos)
    predict = AsgiRoute("/predict", predictions.predict, response_model=Prediction, responses=PREDICT_PROBLEMS,
                        openapi_extra=UPLOAD, tags=["predictions"])  # fmt: skip
    api.router.routes.append(predict)
    api.post("/predict/batch", response_model=Batch, responses=BATCH_PROBLEMS, openapi_extra=UPLOADS,
             tags=["predictions"])(predictions.predict_batch)  # fmt: skip

    if page:
        api.router.routes += page_files.routes(page)
        explain = AsgiRoute("/explain", predictions.explain, response_model=ExplainedPrediction,
                            responses=PREDICT_PROBLEMS, openapi_extra=UPLOAD, tags=["predictions"])  # fmt: skip
        api.router.routes.append(explain)
        cards = ModelCards(settings, models, photos)
        api.get("/model", response_model=ModelPage, responses=MODEL_ANSWERS, tags=["predictions"])(cards.respond)

    # The route comes before FastAPI, whose layers took 35 µs a request and this Router 4 µs (two shared CPU cores).
    app: ASGIApp = Router([predict, Mount("/", api)], lifespan=lifespan)
    refused: ASGIApp = RefusedRequests(metrics)
    if settings.api_key:
        open_paths = {*OPEN, *page, *(documentation.OPEN if settings.docs else ())}
        app = ApiKeyMiddleware(app, settings.api_key.get_secret_value(), open_paths, metrics)
    if settings.cors_origins:
        cors: dict[str, Any] = {
            "allow_origins": settings.cors_origins,
            "allow_methods": ["GET", "POST"],
            "allow_headers": ["*"],
            "expose_headers": ["X-Request-ID", "Retry-After"],
        }
        app, refused = Cors(app, **cors), Cors(refused, **cors)
    routes = {route.path for route in api.routes if isinstance(route, Route)} - page.keys()
    return RequestMiddleware(
        app, refused, routes, metrics, settings.access_log, settings.root_path or "", frozenset(page)
    )


class RefusedRequests:
    """Answers the requests that the server refuses before it has their headers."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        error = refusal_of(scope)
        assert error
        await error_response(scope, error, self._metrics)(scope, receive, send)


class AsgiRoute(APIRoute):
    """A route to an ASGI endpoint: FastAPI documents it, but does not parse its requests or serialise its answers."""

    def __init__(self, path: str, endpoint: ASGIApp, **documentation: Any) -> None:
        name = getattr(endpoint, "__name__", "endpoint")
        super().__init__(path, lambda: None, methods=["POST"], name=name, description=endpoint.__doc__, **documentation)
        self.app = endpoint


def create_api(settings: Settings, metrics: Metrics, models: ModelStore, photos: ModelStore) -> FastAPI:
    """FastAPI's part of the app: health, metrics, documentation, errors."""
    api = FastAPI(
        title="Fashion-MNIST classifier",
        description="Upload a picture of a garment, get back its Fashion-MNIST class and the probabilities.",
        version=__version__,
        servers=[{"url": "."}],  # relative to the address of openapi.json, so that any prefix of a proxy is right
        root_path_in_servers=False,
        redirect_slashes=False,  # RequestMiddleware takes them off
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json" if settings.docs else None,
    )
    if settings.docs:
        documentation.add_documentation(api, start_page=not settings.page)

    async def handle(request: Request, error: Exception) -> Response:
        return error_response(request.scope, error, metrics)

    for kind in (*ERRORS, HTTPException, Exception):
        api.add_exception_handler(kind, handle)

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
            precision=classifier.precision,
            model=classifier.model,
            refused=models.refusal,
            photo_model=photos.current().classifier.model if photos.is_loaded else None,
            photo_refused=photos.refusal,
        )

    @api.get("/health/live", tags=["health"])
    async def live() -> Liveness:
        """Liveness: the process answers, with or without a model."""
        return Liveness(status="alive")

    if settings.metrics:

        @api.get("/metrics", include_in_schema=False)
        async def page(request: Request) -> Response:
            content, content_type = await metrics.page(request.headers.get("Accept", ""))
            return Response(content, headers={"Content-Type": content_type})

    described = api.openapi
    api.openapi = lambda: complete(described(), settings.api_key is not None)  # type: ignore[method-assign]
    return api
