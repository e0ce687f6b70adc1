"""The model that answers, and the watch over its file: a new checkpoint takes over, a broken one changes nothing."""

import asyncio
import gc
import logging
import os
import time
import timeit
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from classifier.checkpoint import CheckpointError
from classifier.classifier import Classifier, DeviceError
from classifier.networks import SIDE
from service.metrics import Metrics
from service.settings import Settings

QUICK_SECONDS = 0.01  # for a full batch: as long may a turn of the event loop take
TRIALS = 5  # of which the quickest counts: others may keep the processor busy
WATCH_SECONDS = 1.0  # between two looks at the checkpoint's file

logger = logging.getLogger(__name__)


class Unavailable(Exception):
    """There is no answer now, and there may be one later; one sentence for clients.

    Unavailable
      x NotReady     no model is loaded; the sentence says why
      x Overloaded   too many pictures wait already (batcher.py)
      x TooLate      the picture waited for too long (batcher.py)
    """


class NotReady(Unavailable):
    pass


@dataclass(frozen=True)
class Model:
    """What answers."""

    classifier: Classifier
    quick: bool  # enough for the event loop


class Reloader:
    """Keeps the model in step with its file."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.settings = settings
        self.metrics = metrics
        self.refusal: str | None = "The model is being loaded."  # why there is no model, or no newer one
        self._model: Model | None = None
        self._seen: tuple[int, ...] | None = None  # the identity of the file that was last looked into
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="load")

    @property
    def model(self) -> Model:
        """What answers. Raises NotReady."""
        if self._model is None:
            raise NotReady(self.refusal)
        return self._model

    async def load(self) -> None:
        """Loads the checkpoint and tries it out; where that fails, what answered before goes on."""
        self._seen = identity(self.settings.model)
        begin = time.monotonic()
        try:
            self._model = await asyncio.get_running_loop().run_in_executor(self._thread, self._load)
        except (CheckpointError, DeviceError) as error:
            self._refuse(str(error))
        except (RuntimeError, MemoryError):  # such as a GPU whose memory is full
            logger.exception("The model could not be loaded.")
            self._refuse("The model could not be loaded; the log says why.")
        else:
            self.refusal = None
            model = self._model.classifier.model
            self.metrics.count_load(model, time.monotonic() - begin)
            logger.info("Serving %s on %s.", model, self._model.classifier.device.type)

    def _refuse(self, sentence: str) -> None:
        self.refusal = sentence
        self.metrics.model_refusals.inc()
        logger.error("%s%s", sentence, " The model before it goes on." if self._model else "")

    def _load(self) -> Model:
        settings = self.settings
        classifier = Classifier.load(settings.model, settings.device, settings.model_sha256)
        blank = np.zeros((settings.max_batch, 1, SIDE, SIDE), np.uint8)
        for size in range(1, settings.max_batch):  # each is prepared at its first use, which may take milliseconds
            classifier.predict(blank[:size])
        seconds = min(timeit.repeat(lambda: classifier.predict(blank), repeat=TRIALS, number=1))
        quick = classifier.device.type == "cpu" and seconds < QUICK_SECONDS
        if self._model is None:
            gc.collect()
            gc.freeze()  # what is here now stays: collecting it again and again would stall requests by 100 ms and more
        return Model(classifier, quick)

    async def watch(self) -> None:
        """Loads the checkpoint again whenever its file has changed."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            if identity(self.settings.model) != self._seen:
                await self.load()

    def close(self) -> None:
        self._thread.shutdown()


def identity(path: os.PathLike[str]) -> tuple[int, ...] | None:
    """What changes when the file at `path` does; None while there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
