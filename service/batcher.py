"""Micro-batching: pictures that arrive together go through the network together.

No picture waits for a batch to fill. Pictures that arrive in one turn of the event loop are one batch; the next batch
collects while the network runs. A fast network runs in the event loop, because it takes less time than a thread switch.
A slow network, or one on a GPU, runs in a thread. A new model takes over between two batches.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from classifier.classifier import Prediction
from classifier.networks import Pixels
from service.admission import Deadline, DeadlineExceeded
from service.explanations import explanation_answer
from service.metrics import Metrics
from service.model_store import ServedModel


@dataclass(slots=True)
class PendingPicture:
    """A picture in the queue."""

    pixels: Pixels  # uint8 [1,28,28] or [3,160,160]
    arrived: float  # by time.monotonic, in seconds
    deadline: Deadline | None
    prediction: asyncio.Future[Prediction]


class Batcher:
    """A queue of pictures before one network. It knows nothing of HTTP."""

    def __init__(self, model: Callable[[], ServedModel], max_batch: int, metrics: Metrics) -> None:
        """`model` gives the network for the next batch, of at most `max_batch` pictures."""
        self._model = model
        self._max_batch = max_batch
        self._metrics = metrics
        self._queue: deque[PendingPicture] = deque()
        self._running: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="network")
        self._explaining = asyncio.Lock()

    async def predict(self, pixels: Pixels, deadline: Deadline | None = None, alone: bool = False) -> Prediction:
        """The prediction for one picture, uint8 [1,28,28] or [3,160,160].

        Raises DeadlineExceeded and the network's exceptions.
        `alone`: no other picture is about to arrive, so a fast network answers at once, without the queue.
        """
        if alone and (model := self._model()).runs_inline:
            begin = time.monotonic()
            predictions = model.classifier.predict(pixels[None])
            self._metrics.count_batch(predictions, [0.0], time.monotonic() - begin)
            return predictions[0]
        loop = asyncio.get_running_loop()
        pending = PendingPicture(pixels, time.monotonic(), deadline, loop.create_future())
        self._queue.append(pending)
        if self._running is None:
            self._running = loop.create_task(self._run())
        return await pending.prediction

    async def explain(self, pixels: Pixels, deadline: Deadline) -> dict[str, Any]:
        """The explanation of the prediction for one picture, as /explain answers it.

        It runs in the network's thread, one at a time, so that a batch waits for at most one of them. Raises
        DeadlineExceeded and the network's exceptions.
        """

        def run() -> dict[str, Any]:
            deadline.check()
            model = self._model()
            assert model.explainer
            return explanation_answer(model.explainer.explain(pixels), model.classifier, pixels)

        try:
            async with asyncio.timeout(deadline.remaining()):
                await self._explaining.acquire()
        except TimeoutError as error:
            raise deadline.exceeded() from error
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, run)
        finally:
            self._explaining.release()

    async def _run(self) -> None:
        """Empties the queue, a batch at a time."""
        try:
            while self._queue:
                if batch := self._next_batch():
                    await self._predict(batch)
                await asyncio.sleep(0)  # other tasks run between two batches
        finally:
            self._running = None

    def _next_batch(self) -> list[PendingPicture]:
        """The oldest pictures, without those over their deadline and those whose client left."""
        batch = []
        for _ in range(min(len(self._queue), self._max_batch)):
            pending = self._queue.popleft()
            if pending.prediction.done():
                continue
            try:
                if pending.deadline:
                    pending.deadline.check()
            except DeadlineExceeded as error:
                pending.prediction.set_exception(error)
            else:
                batch.append(pending)
        return batch

    async def _predict(self, batch: list[PendingPicture]) -> None:
        try:
            model = self._model()
            pixels = np.stack([pending.pixels for pending in batch])  # (N, 1, 28, 28) or (N, 3, 160, 160)
            begin = time.monotonic()
            if model.runs_inline:
                predictions = model.classifier.predict(pixels)
            else:
                loop = asyncio.get_running_loop()
                predictions = await loop.run_in_executor(self._thread, model.classifier.predict, pixels)
            queued = [begin - pending.arrived for pending in batch]
            self._metrics.count_batch(predictions, queued, time.monotonic() - begin)
        except Exception as error:  # a boundary: every caller gets the error, and the queue goes on
            for pending in batch:
                if not pending.prediction.done():
                    pending.prediction.set_exception(error)
            return
        for pending, prediction in zip(batch, predictions, strict=True):
            if not pending.prediction.done():
                pending.prediction.set_result(prediction)

    def close(self) -> None:
        """Waits for the thread to end."""
        self._thread.shutdown()
