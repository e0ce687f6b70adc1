"""What waits, batched through the Classifier: pictures that arrive together are answered together.

Nothing ever waits for a batch to fill: what arrived in one turn of the event loop is a batch, and the next one gathers
while the network works. A network that is quick works in the event loop itself, which spares the hop to a thread; a
slow one, and any on a GPU, works in a thread, so that the loop goes on.
"""

import asyncio
import gc
import logging
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from training.classifier.checkpoint import CheckpointError
from training.classifier.classifier import Answer, Classifier, DeviceError
from training.classifier.model import SIDE, Pixels

QUICK_SECONDS = 0.01  # for a full batch: as long may a turn of the event loop take

logger = logging.getLogger(__name__)


class Unavailable(Exception):
    """There is no answer now, and there may be one later; one sentence for clients.

    Unavailable
      x NotReady     no model is loaded; the sentence says why
      x Overloaded   too many pictures wait already
    """


class NotReady(Unavailable):
    pass


class Overloaded(Unavailable):
    pass


class Batcher:
    """One classifier and the pictures that wait for it."""

    def __init__(self, max_batch: int, max_waiting: int) -> None:
        self.max_batch = max_batch
        self.max_waiting = max_waiting
        self.reason = "The model is being loaded."
        self._classifier: Classifier | None = None
        self._quick = False
        self._waiting: deque[tuple[Pixels, asyncio.Future[Answer]]] = deque()
        self._running: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="network")

    @property
    def ready(self) -> bool:
        return self._classifier is not None

    @property
    def classifier(self) -> Classifier:
        """The classifier that answers. Raises NotReady."""
        if self._classifier is None:
            raise NotReady(self.reason)
        return self._classifier

    async def load(self, path: Path, device: str) -> None:
        """Loads the checkpoint and tries it out; where that fails, `classifier` says why from then on."""
        try:
            self._classifier = await asyncio.get_running_loop().run_in_executor(self._thread, self._load, path, device)
        except (CheckpointError, DeviceError) as error:
            self.reason = str(error)
        except (RuntimeError, MemoryError):  # such as a GPU whose memory is full
            logger.exception("The model could not be loaded.")
            self.reason = "The model could not be loaded; the log says why."

    def _load(self, path: Path, device: str) -> Classifier:
        classifier = Classifier.load(path, device)
        for size in range(1, self.max_batch + 1):  # each is prepared at its first use, which takes milliseconds
            start = time.perf_counter()
            classifier.answers(np.zeros((size, 1, SIDE, SIDE), np.uint8))
        self._quick = classifier.device.type == "cpu" and time.perf_counter() - start < QUICK_SECONDS
        gc.collect()
        gc.freeze()  # what is here now stays: collecting it again and again would stall requests by 100 ms and more
        return classifier

    async def predict(self, pixels: Pixels) -> Answer:
        """The answer for one picture, uint8 [28,28]. Raises Unavailable."""
        classifier = self.classifier
        if len(self._waiting) >= self.max_waiting:
            raise Overloaded(f"{len(self._waiting)} pictures wait already, the limit; try again later.")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Answer] = loop.create_future()
        self._waiting.append((pixels, answer))
        if self._running is None:
            self._running = loop.create_task(self._run(classifier))
        return await answer

    async def _run(self, classifier: Classifier) -> None:
        """Answers all that waits, a batch at a time."""
        try:
            while self._waiting:
                taken = [self._waiting.popleft() for _ in range(min(len(self._waiting), self.max_batch))]
                batch = [(pixels, answer) for pixels, answer in taken if not answer.done()]  # done: its client left
                if batch:
                    await self._answer(classifier, batch)
                await asyncio.sleep(0)  # all else has its turn between two batches
        finally:
            self._running = None

    async def _answer(self, classifier: Classifier, batch: list[tuple[Pixels, asyncio.Future[Answer]]]) -> None:
        pixels = np.stack([pixels for pixels, _ in batch])[:, None]  # uint8 (N, 1, 28, 28)
        try:
            if self._quick:
                answers = classifier.answers(pixels)
            else:
                answers = await asyncio.get_running_loop().run_in_executor(self._thread, classifier.answers, pixels)
        except Exception as error:  # whatever it was, those who wait must hear of it
            for _, answer in batch:
                if not answer.done():
                    answer.set_exception(error)
            return
        for (_, answer), result in zip(batch, answers, strict=True):
            if not answer.done():
                answer.set_result(result)

    def close(self) -> None:
        self._thread.shutdown()
