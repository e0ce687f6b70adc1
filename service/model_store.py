"""The model that is served, and its hot reload: a new checkpoint takes over, a broken one changes nothing."""

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

INLINE_SECONDS = 0.01  # the longest that a full batch may take in the event loop
TRIALS = 5  # the fastest counts: other processes may use the processor
WATCH_SECONDS = 1.0  # between two looks at the checkpoint's file

logger = logging.getLogger(__name__)


class NotReady(Exception):
    """No model is loaded, or the service is about to stop; one sentence for clients."""


@dataclass(frozen=True)
class ServedModel:
    """A classifier that has answered a batch of every size."""

    classifier: Classifier
    runs_inline: bool  # in the event loop; else in a thread


class ModelStore:
    """Keeps the served model in step with its file."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.refusal: str | None = "The model is being loaded."  # why there is no model, or no newer one
        self._settings = settings
        self._metrics = metrics
        self._model: ServedModel | None = None
        self._seen: tuple[int, ...] | None = None  # identity of the file that was loaded or refused last
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="load")

    def current(self) -> ServedModel:
        """The served model. Raises NotReady."""
        if self._model is None:
            raise NotReady(self.refusal)
        return self._model

    async def load(self) -> None:
        """Loads the checkpoint and tries it; if that fails, the model before it stays."""
        self._seen = identity(self._settings.model)
        begin = time.monotonic()
        try:
            self._model = await asyncio.get_running_loop().run_in_executor(self._thread, self._load)
        except (CheckpointError, DeviceError) as error:
            self._refuse(str(error))
        except (RuntimeError, MemoryError):  # a GPU whose memory is full, for example
            logger.exception("The model could not be loaded.")
            self._refuse("The model could not be loaded; the log has the reason.")
        else:
            self.refusal = None
            classifier = self._model.classifier
            self._metrics.count_load(classifier.model, time.monotonic() - begin)
            logger.info("Serving %s on %s by %s.", classifier.model, classifier.device.type, classifier.runtime)

    def _refuse(self, sentence: str) -> None:
        self.refusal = sentence
        self._metrics.model_refusals.inc()
        logger.error("%s%s", sentence, " The model before it stays." if self._model else "")

    def _load(self) -> ServedModel:
        settings = self._settings
        classifier = Classifier.load(settings.model, settings.device, settings.model_sha256)
        blank = np.zeros((settings.max_batch, 1, SIDE, SIDE), np.uint8)
        for size in range(1, settings.max_batch):  # a runtime prepares each batch size at its first use
            classifier.predict(blank[:size])
        seconds = min(timeit.repeat(lambda: classifier.predict(blank), repeat=TRIALS, number=1))
        if self._model is None:
            gc.collect()
            gc.freeze()  # the garbage collector no longer walks the imported modules, which would stall requests
        return ServedModel(classifier, runs_inline=classifier.device.type == "cpu" and seconds < INLINE_SECONDS)

    async def watch(self) -> None:
        """Loads the checkpoint again whenever its file has changed."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            if identity(self._settings.model) != self._seen:
                await self.load()

    def close(self) -> None:
        """Waits for the thread to end."""
        self._thread.shutdown()


def identity(path: os.PathLike[str]) -> tuple[int, ...] | None:
    """Numbers that change when the file at `path` does; None if there is no file."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
