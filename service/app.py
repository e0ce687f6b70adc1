"""create_app(settings): lifespan, routes, error mapping."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import torch
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, RedirectResponse
from fastapi_offline import FastAPIOffline
from PIL.ImageFile import ImageFile
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from service import uploads
from service.batcher import Batcher, NotReady, Unavailable
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
)
from service.settings import Settings
from training.classifier import images
from training.classifier.classifier import Answer

RETRY_AFTER_SECONDS = 1
DECODERS = 2  # threads for larger pictures; each may need 100 MB for a while
QUICK_BYTES, QUICK_PIXELS = 8 * 2**10, 64 * 2**10  # up to these a decode is shorter than the hop to a thread and back

logger = logging.getLogger(__name__)

STATUS: dict[type[Exception], int] = {  # the one place where an error becomes a status
    images.BrokenPicture: 400,
    images.PictureTooLarge: 413,
    images.UnsupportedPicture: 415,
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
    batcher = Batcher(settings.max_batch, settings.max_waiting)
    decoders = ThreadPoolExecutor(DECODERS, thread_name_prefix="decode")

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        torch.set_num_threads(settings.threads)
        loading = asyncio.create_task(batcher.load(settings.model, settings.device))
        yield
        await loading
        batcher.close()
        decoders.shutdown()

    app = FastAPIOffline(
        title="Fashion-MNIST classifier",
        description="Upload a picture of a garment, get back its Fashion-MNIST class and the probabilities.",
        version="0.1.0",
        lifespan=lifespan,
        redoc_url=None,
    )
    for error in REFUSALS:
        app.add_exception_handler(error, refuse)
    app.add_exception_handler(HTTPException, refuse_http)
    app.add_exception_handler(Exception, refuse_internal)

    async def answer(content: bytes) -> Answer:
        limits = settings.max_pixels, settings.max_jpeg_pixels
        if len(content) <= QUICK_BYTES and is_quick(picture := images.open_picture(content, *limits)):
            pixels = images.decode(picture)
        else:
            loop = asyncio.get_running_loop()
            pixels = await loop.run_in_executor(decoders, images.to_fashion, content, *limits)
        return await batcher.predict(pixels)

    async def predict(scope: Scope, receive: Receive) -> bytes:
        content = await uploads.read(scope, receive, settings.max_upload_bytes)
        await asyncio.sleep(0)  # of requests that came together all are read, then all decoded: caches stay warm
        return to_json(await answer(content))

    @app.post(
        "/predict", tags=["predictions"], response_model=Prediction, responses=PREDICT_PROBLEMS, openapi_extra=UPLOAD
    )
    async def documented_predict(request: Request) -> Response:
        """The Fashion-MNIST class of a picture: PNG, JPEG, WebP, GIF (first frame) or BMP."""
        return Response(await predict(request.scope, request.receive), media_type="application/json")

    @app.post(
        "/predict/batch", tags=["predictions"], response_model=Batch, responses=BATCH_PROBLEMS, openapi_extra=UPLOADS
    )
    async def predict_batch(request: Request) -> Response:
        """The classes of several pictures, in their order; a picture that is refused costs the others nothing."""
        if not batcher.ready:
            raise NotReady(batcher.reason)
        contents = await uploads.read_several(
            request.scope, request.receive, settings.max_upload_bytes, settings.max_files
        )
        predictions: list[Answer | dict[str, Any]] = []
        for result in await asyncio.gather(*map(answer, contents), return_exceptions=True):
            if isinstance(result, REFUSALS):
                predictions.append({"detail": str(result), "status": status_of(result)})
            elif isinstance(result, BaseException):
                raise result
            else:
                predictions.append(result)
        return Response(to_json({"predictions": predictions}), media_type="application/json")

    @app.head("/health", include_in_schema=False)
    @app.get("/health", tags=["health"], responses=HEALTH_PROBLEMS)
    async def health() -> Health:
        """Whether pictures are answered: a model is loaded and has answered a test picture."""
        classifier = batcher.classifier
        return Health(status="ok", device=classifier.device.type, model=classifier.checkpoint.model)

    @app.get("/health/live", tags=["health"])
    async def live() -> Liveness:
        """Whether the process answers, with or without a model."""
        return Liveness(status="alive")

    @app.get("/", include_in_schema=False)
    async def root() -> RedirectResponse:
        return RedirectResponse("docs")

    return Shortcut(app, "/predict", predict)


class Shortcut:
    """An ASGI application in front of another: POST requests for `path` go straight to the endpoint, which gives JSON.

    FastAPI's own way there, through eight layers, takes as long as decoding the picture and running the network.
    """

    def __init__(self, app: ASGIApp, path: str, endpoint: Callable[[Scope, Receive], Awaitable[bytes]]) -> None:
        self.app = app
        self.path = path
        self.endpoint = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] != scope["root_path"] + self.path:
            await self.app(scope, receive, send)
            return
        try:
            content = await self.endpoint(scope, receive)
        except REFUSALS as error:
            response = await refuse(Request(scope), error)
            await response(scope, receive, send)
        except Exception as error:
            logger.exception("An error that no one foresaw.")
            response = await refuse_internal(Request(scope), error)
            await response(scope, receive, send)
        else:
            headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content))]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": content})


def is_quick(picture: ImageFile) -> bool:
    return picture.width * picture.height <= QUICK_PIXELS


def status_of(error: Exception) -> int:
    return next(status for kind, status in STATUS.items() if isinstance(error, kind))


async def refuse(request: Request, error: Exception) -> Response:
    """The error's own sentence, written for clients, with the status that STATUS gives its class."""
    status = status_of(error)
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS)} if status == 503 else None
    return JSONResponse({"detail": str(error)}, status, headers)


async def refuse_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    sentence = HTTP_SENTENCES.get(error.status_code, f"{error.detail}.")
    return JSONResponse({"detail": sentence}, error.status_code, error.headers)


async def refuse_internal(request: Request, error: Exception) -> Response:
    return JSONResponse({"detail": INTERNAL_ERROR}, 500)
