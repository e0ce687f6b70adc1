"""What waits, batched through the Classifier: pictures that arrive together are answered together.

Nothing ever waits for a batch to fill. While the network works on one batch, in a thread of its own so that the event
loop goes on, the next one gathers.
"""

import asyncio
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from training.classifier.checkpoint import CheckpointError
from training.classifier.classifier import Answer, Classifier, DeviceError


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
    """One classifier and the pictures that wait for it. All but the network itself runs in the event loop."""

    def __init__(self, max_batch: int, max_waiting: int) -> None:
        self.max_batch = max_batch
        self.max_waiting = max_waiting
        self.reason = "The model is being loaded."
        self._classifier: Classifier | None = None
        self._waiting: deque[tuple[Tensor, asyncio.Future[Answer]]] = deque()
        self._running: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="network")

    @property
    def classifier(self) -> Classifier:
        """The classifier that answers. Raises NotReady."""
        if self._classifier is None:
            raise NotReady(self.reason)
        return self._classifier

    async def load(self, path: Path, device: str) -> None:
        """Loads the checkpoint and tries it out; where that fails, `classifier` says why from then on."""

        def loaded() -> Classifier:
            classifier = Classifier.load(path, device)
            classifier.smoke_test()
            return classifier

        try:
            self._classifier = await asyncio.get_running_loop().run_in_executor(self._thread, loaded)
        except (CheckpointError, DeviceError) as error:
            self.reason = str(error)

    async def predict(self, pixels: Tensor) -> Answer:
        """The answer for one picture, uint8 [28,28]. Raises Unavailable."""
        classifier = self.classifier
        if len(self._waiting) >= self.max_waiting:
            raise Overloaded(f"{len(self._waiting)} pictures wait already, the limit; try again later.")
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((pixels, answer))
        if self._running is None:
            self._running = asyncio.create_task(self._run(classifier))
        return await answer

    async def _run(self, classifier: Classifier) -> None:
        """Answers all that waits, a batch at a time."""
        loop = asyncio.get_running_loop()
        try:
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), self.max_batch))]
                batch = [(pixels, answer) for pixels, answer in batch if not answer.done()]  # whose client went away
                if not batch:
                    continue
                pixels = torch.stack([pixels for pixels, _ in batch]).unsqueeze(1)  # uint8 (N, 1, 28, 28)
                answering = loop.run_in_executor(self._thread, classifier.answers, pixels)
                await asyncio.wait([answering])
                for place, (_, answer) in enumerate(batch):
                    if answer.done():
                        continue
                    if error := answering.exception():
                        answer.set_exception(error)
                    else:
                        answer.set_result(answering.result()[place])
        finally:
            self._running = None

    def close(self) -> None:
        self._thread.shutdown()
