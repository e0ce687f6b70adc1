"""What waits, batched through the Classifier: pictures that arrive together are answered together.

Nothing ever waits for a batch to fill: what arrived in one turn of the event loop is a batch, and the next one gathers
while the network works. What is quicker than the hop to a thread and back is done in the event loop itself: decoding a
small picture, and a small network on a CPU. Large pictures, slow networks and GPUs work in threads, and the loop goes
on. A new model takes over between two batches.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from math import inf

import numpy as np
from PIL.ImageFile import ImageFile

from classifier.classifier import Prediction
from classifier.networks import SIDE, Pixels
from classifier.picture import open_picture
from classifier.preprocessing import preprocess
from service.metrics import Metrics
from service.reload import Model, Reloader, Unavailable
from service.settings import Settings

FULL_SECONDS = 0.1  # for which hasty clients are kept out
QUICK_BYTES, QUICK_PIXELS = 8 * 2**10, 64 * 2**10  # of a picture that decodes quickly
DECODERS = 2  # threads for the others; a progressive JPEG of 50 megapixels needs 290 MB in one


class Overloaded(Unavailable):
    pass


class TooLate(Unavailable):
    pass


@dataclass(slots=True)
class Waiting:
    """A picture that waits, and how far it has come. Times are in seconds."""

    arrived: float  # by time.monotonic
    pixels: Pixels = field(init=False)  # uint8 [28,28], once decoded
    decoding: float = field(init=False)
    answer: asyncio.Future[Prediction] = field(init=False)


class Batcher:
    """One model and the pictures that wait for it."""

    def __init__(self, settings: Settings, metrics: Metrics, reloader: Reloader) -> None:
        self.settings = settings
        self.reloader = reloader
        self.metrics = metrics
        self._inside = 0  # pictures
        self._full = -inf  # when they last were as many as may be, by time.monotonic
        self._waiting: deque[Waiting] = deque()
        self._running: asyncio.Task[None] | None = None
        self._decoders = ThreadPoolExecutor(DECODERS, thread_name_prefix="decode")
        self._network = ThreadPoolExecutor(1, thread_name_prefix="network")

    def inside(self) -> int:
        """Pictures that wait or are worked on."""
        return self._inside

    def check(self, hasty: bool = False) -> None:
        """Raises Unavailable if one more picture would not be let in.

        Whoever is `hasty`, and asks again before Retry-After is over, is not let in while the limit is still reached
        now and then: what the others wait for their answers would grow by what hasty clients have waited to be read.
        """
        _ = self.reloader.model
        if self._inside >= self.settings.max_waiting:
            self._full = time.monotonic()
        elif not hasty or time.monotonic() - self._full > FULL_SECONDS:
            return
        raise Overloaded(f"{self.settings.max_waiting} pictures wait already, the limit; try again later.")

    async def predict(self, content: bytes, *, alone: bool = False, together: bool = False) -> Prediction:
        """The answer for one encoded picture that `check` has let in.

        `alone`: there is no other request; `together`: it came in one request with others. Raises PictureError,
        TooLate.
        """
        waiting = Waiting(time.monotonic())
        self._inside += 1
        try:
            if not alone and not together:
                await asyncio.sleep(0)  # of requests that came at once all are read, then all decoded: warm caches
            limits = self.settings.max_pixels, self.settings.max_jpeg_pixels
            if len(content) <= QUICK_BYTES and is_quick(picture := open_picture(content, *limits)):
                self._decode(waiting, lambda: picture)
            else:
                await asyncio.get_running_loop().run_in_executor(
                    self._decoders, self._decode, waiting, lambda: open_picture(content, *limits)
                )
            if alone and self.reloader.model.quick:
                return self._answers(self.reloader.model, [waiting])[0]
            return await self._batched(waiting)
        finally:
            self._inside -= 1
            if not self._inside:
                self.metrics.waiting.set(0)

    def _decode(self, waiting: Waiting, opened: Callable[[], ImageFile]) -> None:
        begin = time.monotonic()
        self._check_wait(begin - waiting.arrived)
        waiting.pixels = preprocess(opened())
        waiting.decoding = time.monotonic() - begin

    def _check_wait(self, seconds: float) -> None:
        if seconds > self.settings.max_wait_seconds:
            limit = self.settings.max_wait_seconds
            raise TooLate(f"The picture waited for {seconds:.1f} s, over the limit of {limit:g}; try again later.")

    async def _batched(self, waiting: Waiting) -> Prediction:
        loop = asyncio.get_running_loop()
        waiting.answer = loop.create_future()
        self._waiting.append(waiting)
        if self._running is None:
            self._running = loop.create_task(self._run())
        return await waiting.answer

    async def _run(self) -> None:
        """Answers all that waits, a batch at a time."""
        try:
            while self._waiting:
                if batch := self._next_batch():
                    await self._answer(self.reloader.model, batch)
                await asyncio.sleep(0)  # all else has its turn between two batches
        finally:
            self._running = None

    def _next_batch(self) -> list[Waiting]:
        """What waits longest, less those that waited too long, who are told, and those whose client left."""
        now = time.monotonic()
        batch = []
        for _ in range(min(len(self._waiting), self.settings.max_batch)):
            waiting = self._waiting.popleft()
            if waiting.answer.done():
                continue
            try:
                self._check_wait(now - waiting.arrived)
            except TooLate as error:
                waiting.answer.set_exception(error)
            else:
                batch.append(waiting)
        return batch

    async def _answer(self, model: Model, batch: list[Waiting]) -> None:
        try:
            if model.quick:
                answers = self._answers(model, batch)
            else:
                loop = asyncio.get_running_loop()
                answers = await loop.run_in_executor(self._network, self._answers, model, batch)
        except Exception as error:  # whatever it was, those who wait must hear of it
            for waiting in batch:
                if not waiting.answer.done():
                    waiting.answer.set_exception(error)
            return
        for waiting, answer in zip(batch, answers, strict=True):
            if not waiting.answer.done():
                waiting.answer.set_result(answer)

    def _answers(self, model: Model, batch: list[Waiting]) -> list[Prediction]:
        begin = time.monotonic()
        answers = model.classifier.predict(stack([waiting.pixels for waiting in batch]))
        if self.metrics.enabled:
            self.metrics.count_batch(
                answers,
                queued=[begin - waiting.arrived - waiting.decoding for waiting in batch],
                decoding=[waiting.decoding for waiting in batch],
                seconds=time.monotonic() - begin,
                waiting=self._inside,
            )
        return answers

    def close(self) -> None:
        self._decoders.shutdown()
        self._network.shutdown()


def stack(pictures: list[Pixels]) -> Pixels:
    """uint8 [N,1,28,28] of N pictures, uint8 [28,28], in a sixth of the time that np.stack takes."""
    return np.frombuffer(bytearray().join(picture.data for picture in pictures), np.uint8).reshape(-1, 1, SIDE, SIDE)


def is_quick(picture: ImageFile) -> bool:
    return picture.width * picture.height <= QUICK_PIXELS
