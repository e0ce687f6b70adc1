"""create_app(settings): lifespan, routes, error mapping."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import torch
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, RedirectResponse
from fastapi_offline import FastAPIOffline
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import Response

from service import uploads
from service.batcher import Batcher, Unavailable
from service.schemas import Health, Liveness, Prediction, Problem
from service.settings import Settings
from training.classifier import images

RETRY_AFTER_SECONDS = 1

STATUS: dict[type[Exception], int] = {  # the one place where an error becomes a status
    images.BrokenPicture: 400,
    images.PictureTooLarge: 413,
    images.UnsupportedPicture: 415,
    uploads.BrokenUpload: 400,
    uploads.UploadTooLarge: 413,
    uploads.MissingFile: 422,
    Unavailable: 503,
}
HTTP_SENTENCES = {
    404: "There is nothing at this address; /docs lists what there is.",
    405: "This address does not take that method; /docs lists what it takes.",
}
INTERNAL_ERROR = "The service failed to answer; its log says why."

PICTURE = {"type": "string", "format": "binary"}
UPLOAD = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {"type": "object", "required": ["file"], "properties": {"file": PICTURE}},
            },
            "image/*": {"schema": PICTURE},
        },
    }
}


def problem(description: str, example: str) -> dict[str, Any]:
    return {
        "model": Problem,
        "description": description,
        "content": {"application/json": {"example": {"detail": example}}},
    }


NOT_READY = problem(
    "No model is loaded, or too many requests wait",
    "model_scratch.pt does not exist: train it with `python -m training.run`.",
)
PREDICT_PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: problem("A broken picture or an empty file", "The PNG picture is damaged or incomplete."),
    413: problem("Over the byte or the pixel limit", "The body has 20,000,000 bytes, over the limit of 10,485,760."),
    415: problem(
        "Not a picture of an accepted format",
        f"The file is not a picture of an accepted format: {images.ACCEPTED}.",
    ),
    422: problem("No file", "The multipart form has 0 fields 'file'; expected exactly one."),
    503: NOT_READY,
}


def create_app(settings: Settings) -> FastAPI:
    """The service as an ASGI application. It loads its model when it starts and stays up without one."""
    batcher = Batcher(settings.max_batch, settings.max_waiting)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        torch.set_num_threads(settings.threads)
        loading = asyncio.create_task(batcher.load(settings.model, settings.device))
        yield
        await loading
        batcher.close()

    app = FastAPIOffline(
        title="Fashion-MNIST classifier",
        description="Upload a picture of a garment, get back its Fashion-MNIST class and the probabilities.",
        version="0.1.0",
        lifespan=lifespan,
        redoc_url=None,
    )
    for error, status in STATUS.items():
        app.add_exception_handler(error, refuse(status))
    app.add_exception_handler(HTTPException, refuse_http)
    app.add_exception_handler(500, refuse_internal)

    @app.post("/predict", responses=PREDICT_PROBLEMS, openapi_extra=UPLOAD)
    async def predict(request: Request) -> Prediction:
        """The Fashion-MNIST class of a picture: PNG, JPEG, WebP, GIF (first frame) or BMP."""
        content = await uploads.read(request, settings.max_upload_bytes)
        pixels = await run_in_threadpool(images.to_fashion, content, settings.max_pixels, settings.max_jpeg_pixels)
        answer = await batcher.predict(pixels)
        return Prediction.model_validate(answer)

    @app.get("/health", responses={503: NOT_READY})
    async def health() -> Health:
        """Whether pictures are answered: a model is loaded and has answered a test picture."""
        classifier = batcher.classifier
        return Health(status="ok", device=classifier.device.type, model=classifier.checkpoint.model)

    @app.get("/health/live")
    async def live() -> Liveness:
        """Whether the process answers, with or without a model."""
        return Liveness(status="alive")

    @app.get("/", include_in_schema=False)
    async def root() -> RedirectResponse:
        return RedirectResponse("docs")

    return app


def refuse(status: int) -> Any:
    """A handler that answers an error of ours with `status` and the error's own sentence, written for clients."""

    async def handler(request: Request, error: Exception) -> Response:
        headers = {"Retry-After": str(RETRY_AFTER_SECONDS)} if status == 503 else None
        return JSONResponse({"detail": str(error)}, status, headers)

    return handler


async def refuse_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    sentence = HTTP_SENTENCES.get(error.status_code, f"{error.detail}.")
    return JSONResponse({"detail": sentence}, error.status_code, error.headers)


async def refuse_internal(request: Request, error: Exception) -> Response:
    return JSONResponse({"detail": INTERNAL_ERROR}, 500)
