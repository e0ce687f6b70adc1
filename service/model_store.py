"""The model that is served, and its hot reload: a new checkpoint takes over, a broken one changes nothing."""

import asyncio
import gc
import logging
import os
import threading
import time
import timeit
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np

from classifier.checkpoint import CheckpointError
from classifier.classifier import Classifier, DeviceError
from classifier.explanation import Explainer
from classifier.pixels import PHOTO_SHAPE, SHAPE
from classifier.torch_file import UnreadableFile
from classifier.weights import costs_of
from service.metrics import Metrics
from service.settings import Settings

INLINE_SECONDS = 0.01  # the longest that a full batch may take in the event loop
SLOW_SECONDS = 5 * INLINE_SECONDS  # a batch that takes longer the first time is not measured again
NO_PHOTO_NETWORK = "No photo network is served: every picture becomes an image of Fashion-MNIST."
PHOTO_BATCH = 1  # photos; on a CPU, a larger batch is slower for each, and takes 6 MB more for each
SETTINGS = {SHAPE: "SERVICE_MODEL", PHOTO_SHAPE: "SERVICE_PHOTO_MODEL"}  # by the shape of an image
TRIALS = 5  # the fastest counts: other processes may use the processor
WATCH_SECONDS = 1.0  # between two looks at the checkpoint's file
MAX_RETRY_SECONDS = 60.0  # between two loads after an error that may pass; the first retry comes after WATCH_SECONDS
CLOSE_SECONDS = 3.0  # for which the end of the service waits for a load to end

T = TypeVar("T")
logger = logging.getLogger(__name__)


class NotReady(Exception):
    """No model is loaded, or the service is about to stop; one sentence for clients."""


class LoadStopped(Exception):
    """The service ends while it loads a model."""


@dataclass(frozen=True)
class ServedModel:
    """A classifier that has answered one picture and a full batch."""

    classifier: Classifier
    runs_inline: bool  # in the event loop; else in a thread
    multiply_adds: int  # of one image

    @cached_property
    def explainer(self) -> Explainer:
        """Made when the first explanation is asked for. Not for several threads at once."""
        return Explainer(self.classifier, self.multiply_adds)


class ModelStore:
    """Keeps the served model in step with its file."""

    def __init__(self, settings: Settings, metrics: Metrics, photos: bool = False) -> None:
        """`photos`: of the photo network, which may be missing; else of the network for images of Fashion-MNIST."""
        self.refusal: str | None = "The model is being loaded."  # why there is no model, or no newer one
        self.shape = PHOTO_SHAPE if photos else SHAPE  # of an image
        self.max_batch = min(settings.max_batch, PHOTO_BATCH) if photos else settings.max_batch
        self._path = settings.photo_model if photos else settings.model
        self._sha256 = None if photos else settings.model_sha256
        self._settings = settings
        self._metrics = metrics
        self._model: ServedModel | None = None
        self._seen: tuple[int, ...] | None = None  # identity of the file that was loaded or refused last
        self._retry_seconds = 0.0  # until the same file is tried again; 0 for never
        self._retry_time = 0.0  # when, on the clock of time.monotonic
        self._thread: threading.Thread | None = None  # that looks at the file, or loads it
        self._turn = asyncio.Lock()  # one thread at a time
        self._closed = threading.Event()

    def current(self) -> ServedModel:
        """The served model. Raises NotReady."""
        if self._model is None:
            raise NotReady(self.refusal)
        return self._model

    @property
    def is_loaded(self) -> bool:
        return self._model is not None

    async def load(self) -> None:
        """Loads the checkpoint and tries it; if that fails, however it fails, the model before it stays."""
        if self._path is None:
            self.refusal = None
            logger.info("%s", NO_PHOTO_NETWORK)
            return
        begin = time.monotonic()
        try:
            loaded = await self._in_thread(self._load)
        except LoadStopped:
            pass
        except (CheckpointError, DeviceError) as error:
            self._refuse(error, may_pass=isinstance(error, UnreadableFile))
        except Exception:  # a boundary: a full GPU, or a fault of OpenVINO; the watcher must go on
            logger.exception("The model could not be loaded.")
            self._refuse(CheckpointError("The model could not be loaded; the log has the reason."), may_pass=True)
        else:
            replaced = self._model.classifier.model if self._model else None
            self._model, self.refusal, self._retry_seconds = loaded, None, 0.0
            classifier = loaded.classifier
            self._metrics.count_load(classifier.model, replaced)
            logger.info("Serving %s on %s by %s in %s.", classifier.model, classifier.device.type, classifier.runtime,
                        classifier.precision)  # fmt: skip
            if self.shape == SHAPE:
                self._metrics.time_load(time.monotonic() - begin)
            else:
                logger.info("%s answers all but images of Fashion-MNIST; an empty SERVICE_PHOTO_MODEL switches it off.",
                            classifier.model)  # fmt: skip
            if classifier.checkpoint.assumption:
                logger.warning("%s", classifier.checkpoint.assumption)

    def _refuse(self, error: CheckpointError | DeviceError, may_pass: bool = False) -> None:
        """Notes, counts and logs why there is no newer model. If the reason may pass, the file is tried again later."""
        self._retry_seconds = min(max(WATCH_SECONDS, 2 * self._retry_seconds), MAX_RETRY_SECONDS) if may_pass else 0.0
        self._retry_time = time.monotonic() + self._retry_seconds
        if may_pass and self.refusal == str(error):
            return
        self.refusal = str(error)
        missing_photos = self.shape == PHOTO_SHAPE and isinstance(error, UnreadableFile) and not self._model
        if not missing_photos:
            self._metrics.model_refusals.inc()
        sentence = error.with_path() if isinstance(error, CheckpointError) else str(error)
        if self._model:
            logger.error("%s The model before it stays.", sentence)
        elif missing_photos:
            logger.warning("%s %s", sentence, NO_PHOTO_NETWORK)
        else:
            logger.error("%s", sentence)

    def _load(self) -> ServedModel:
        assert self._path
        self._seen = identity(self._path)
        classifier = Classifier.load(self._path, self._settings.device, self._sha256, self._settings.precision)
        classifier.check_shape(self.shape, self._path.name, SETTINGS[self.shape])
        blank = np.zeros((self.max_batch, *self.shape), np.uint8)

        def predict(size: int) -> None:
            if self._closed.is_set():
                raise LoadStopped
            classifier.predict(blank[:size])

        predict(1)
        seconds = timeit.timeit(lambda: predict(self.max_batch), number=1)
        if seconds < SLOW_SECONDS:
            seconds = min(timeit.repeat(lambda: predict(self.max_batch), repeat=TRIALS, number=1))
        if self._model is None and self.shape == SHAPE:  # the last one to be loaded
            gc.collect()
            gc.freeze()  # the garbage collector no longer walks the imported modules, which would stall requests
        multiply_adds, _ = costs_of(classifier.network)
        runs_inline = classifier.device.type == "cpu" and seconds < INLINE_SECONDS
        return ServedModel(classifier, runs_inline, multiply_adds)

    async def watch(self) -> None:
        """Loads the checkpoint again whenever its file has changed, or when an error may have passed."""
        if (path := self._path) is None:
            return
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            try:
                found = await self._in_thread(lambda: identity(path))
            except Exception:  # a boundary: no thread can be started, for example
                logger.exception("The model's file could not be looked at.")
                continue
            if found != self._seen:
                self._retry_seconds = 0.0
            elif not self._retry_seconds or time.monotonic() < self._retry_time:
                continue
            await self.load()

    async def _in_thread(self, function: Callable[[], T]) -> T:
        """Runs the function in a daemon thread: a file on a mount that hangs does not stop the process from ending."""
        future: Future[T] = Future()

        def run() -> None:
            with suppress(InvalidStateError):  # the service ends and nobody waits any more
                try:
                    future.set_result(function())
                except Exception as error:
                    future.set_exception(RuntimeError(repr(error)) if isinstance(error, StopIteration) else error)
                except BaseException as error:  # a panic of a library in Rust, for example
                    future.set_exception(RuntimeError(repr(error)))

        async with self._turn:
            self._thread = threading.Thread(target=run, daemon=True, name="load")
            self._thread.start()
            return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Stops a load and waits for it, at most CLOSE_SECONDS."""
        self._closed.set()
        if self._thread:
            self._thread.join(CLOSE_SECONDS)


def identity(path: os.PathLike[str]) -> tuple[int, ...] | None:
    """Numbers that change when the file at `path` or its permissions do; None if there is no file."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
