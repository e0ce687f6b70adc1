"""From upload to prediction: uploads -> admission -> decoding -> batcher."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service import uploads
from service.admission import Admission, Deadline
from service.batcher import Batcher
from service.decoding import Decoder
from service.errors import BACKPRESSURE, ERRORS, describe_error, error_response
from service.metrics import Metrics
from service.model_store import ModelStore
from service.settings import Settings

Work = Callable[[bytes, Deadline], Awaitable[dict[str, Any]]]
"""From the bytes of a picture to the fields of the answer."""


class Predictions:
    """What `POST /predict`, `POST /predict/batch` and `POST /explain` do."""

    def __init__(self, settings: Settings, metrics: Metrics, models: ModelStore, photos: ModelStore) -> None:
        self.admission = Admission(settings.max_waiting, metrics)
        self.decoder = Decoder(settings.max_pixels, settings.max_jpeg_pixels, metrics)
        self.batchers: dict[tuple[int, ...], Batcher] = {
            store.shape: Batcher(store.current, store.max_batch, metrics) for store in (models, photos)
        }
        self._models = models
        self._photos = photos
        self._metrics = metrics
        self._max_wait_seconds = settings.max_wait_seconds
        self._max_bytes = settings.max_upload_bytes
        self._max_files = min(settings.max_files, settings.max_waiting)  # more could never be admitted

    async def predict(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI endpoint of `POST /predict`: one picture in, one prediction out."""
        await self._respond(scope, receive, send, self._predict)

    async def explain(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The prediction for one picture, with the pixels and feature maps of the network, and the evidence in them."""
        await self._respond(scope, receive, send, self._explain)

    async def _respond(self, scope: Scope, receive: Receive, send: Send, work: Work) -> None:
        """Answers a request with one picture by what `work` makes of it."""
        try:
            self._check(scope)
            content = await uploads.read(scope, receive, self._max_bytes)
            self.admission.enter()
            try:
                # Of the requests that came in the same turn of the event loop, all are admitted, then all are decoded.
                await asyncio.sleep(0)
                answer = await work(content, Deadline(self._max_wait_seconds))
            finally:
                self.admission.leave()
            response = json_response(answer)
        except Exception as error:  # a boundary: counted or logged there
            response = error_response(scope, error, self._metrics)
        await response(scope, receive, send)

    async def predict_batch(self, request: Request) -> Response:
        """The classes of several pictures, in their order. A refused picture does not affect the others."""
        self._check(request.scope)
        contents = await uploads.read_several(request.scope, request.receive, self._max_bytes, self._max_files)
        self.admission.enter(len(contents))
        try:
            deadline = Deadline(self._max_wait_seconds)
            results = await asyncio.gather(
                *(self._predict(content, deadline) for content in contents), return_exceptions=True
            )
        finally:
            self.admission.leave(len(contents))
        return json_response({"predictions": [self._item(result) for result in results]})

    def _check(self, scope: Scope) -> None:
        """Refuses before the body is read. Raises NotReady, Overloaded."""
        self._models.current()
        backpressure = scope.get("extensions", {}).get(BACKPRESSURE, {})
        self.admission.check(early_retry="early_retry" in backpressure)

    async def _predict(self, content: bytes, deadline: Deadline) -> dict[str, Any]:
        pixels, facts = await self.decoder.decode(content, deadline, self._photos.is_loaded)
        batcher = self.batchers[pixels.shape]
        prediction = await batcher.predict(pixels, deadline, alone=self.admission.in_flight == 1)
        return {**prediction, "input": facts}

    async def _explain(self, content: bytes, deadline: Deadline) -> dict[str, Any]:
        pixels, facts = await self.decoder.decode(content, deadline, self._photos.is_loaded)
        explanation = await self.batchers[pixels.shape].explain(pixels, deadline)
        return {**explanation, "input": facts}

    def _item(self, result: dict[str, Any] | BaseException) -> dict[str, Any]:
        if not isinstance(result, BaseException):
            return result
        if type(result) not in ERRORS:
            raise result
        status, sentence = describe_error(result, self._metrics)
        return {"detail": sentence, "status": status}

    def close(self) -> None:
        """Waits for the threads to end."""
        self.decoder.close()
        for batcher in self.batchers.values():
            batcher.close()


def json_response(content: object) -> Response:
    """200 with `content` as JSON; floats keep their shortest exact form."""
    return Response(to_json(content), media_type="application/json")
