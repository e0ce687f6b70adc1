"""Metrics for Prometheus, correct with several workers.

Several workers share a folder, named by PROMETHEUS_MULTIPROC_DIR, with one file each. The worker that is scraped adds
up all files.
"""

import asyncio
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from prometheus_client import (
    CONTENT_TYPE_PLAIN_0_0_4,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
    multiprocess,
)
from prometheus_client.openmetrics import exposition as openmetrics

from classifier.classifier import Prediction
from classifier.networks import CLASSES

FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # the variable that prometheus_client reads
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
PICTURES = (1, 2, 4, 8, 16, 32, 64, 128)
PREFIX = "fashion_mnist"


class Metrics:
    """The metrics of one app. Times are in seconds."""

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled
        self.registry = CollectorRegistry()
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second time series for each counter
        if FOLDER not in os.environ:
            ProcessCollector(registry=self.registry)  # of several workers it would show the one that is scraped
        self.requests = self._counter("requests", "Requests answered.", "route", "status")
        self.request_seconds = self._histogram(
            "request_seconds", "Time from the headers of a request to the end of its answer, in seconds.", "route"
        )
        self.decode_queue_seconds = self._histogram(
            "decode_queue_seconds", "Time a large picture spent waiting for a decoding thread, in seconds."
        )
        self.decode_seconds = self._histogram("decode_seconds", "Time to decode and preprocess a picture, in seconds.")
        self.queue_seconds = self._histogram(
            "queue_seconds", "Time a picture spent in the queue before the network, in seconds."
        )
        self.inference_seconds = self._histogram("inference_seconds", "Time the network took for a batch, in seconds.")
        self.batch_pictures = self._histogram("batch_pictures", "Pictures in a batch.", buckets=PICTURES)
        self.in_flight = self._gauge("in_flight", "Pictures uploaded and not answered yet.", "livesum")
        self.rejected = self._counter("rejected", "Requests and pictures refused.", "reason")
        predictions = self._counter("predictions", "Predictions made.", "class")
        self.predictions = [predictions.labels(name) for name in CLASSES]
        self.confidence = self._counter(
            "confidence", "Sum of the confidence of all predictions; divided by predictions, the mean confidence."
        )
        self.model = self._gauge("model", "1 for each model that is served, 0 for earlier ones.", "livemin", "model")
        self.model_loaded = self._gauge(
            "model_loaded_timestamp_seconds", "Unix time at which the model was loaded.", "livemin"
        )
        self.model_load_seconds = self._gauge("model_load_seconds", "Time to load the model, in seconds.", "livemax")
        self.model_refusals = self._counter("model_refusals", "Checkpoints refused.")
        self._requests: dict[tuple[str, int], tuple[Counter, Histogram]] = {}

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"{PREFIX}_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, *labels: str, buckets: Sequence[float] = SECONDS) -> Histogram:
        return Histogram(f"{PREFIX}_{name}", text, labels, buckets=buckets, registry=self.registry)

    def _gauge(self, name: str, text: str, mode: str, *labels: str) -> Gauge:
        """`mode` is how the values of several workers are combined: "livesum", "livemin" or "livemax"."""
        return Gauge(f"{PREFIX}_{name}", text, labels, registry=self.registry, multiprocess_mode=mode)  # type: ignore[arg-type]

    def count_request(self, route: str, status: int, seconds: float) -> None:
        """Counts an answered request."""
        if not self.enabled:
            return
        if (known := self._requests.get((route, status))) is None:
            known = self.requests.labels(route, str(status)), self.request_seconds.labels(route)
            self._requests[route, status] = known
        known[0].inc()
        known[1].observe(seconds)

    def set_in_flight(self, pictures: int) -> None:
        """Sets the number of pictures uploaded and not answered yet."""
        if self.enabled:
            self.in_flight.set(pictures)

    def count_decoded(self, seconds: float) -> None:
        """Counts a picture that was decoded and preprocessed."""
        if self.enabled:
            self.decode_seconds.observe(seconds)

    def count_batch(self, predictions: list[Prediction], queued: list[float], seconds: float) -> None:
        """Counts a batch: its predictions, the seconds each picture spent in the queue, and those the network took."""
        if not self.enabled:
            return
        self.batch_pictures.observe(len(predictions))
        self.inference_seconds.observe(seconds)
        self.confidence.inc(sum(prediction["confidence"] for prediction in predictions))
        for prediction, wait in zip(predictions, queued, strict=True):
            self.predictions[prediction["index"]].inc()
            self.queue_seconds.observe(wait)

    def count_load(self, model: str, replaced: str | None = None) -> None:
        """Counts that `model` is served from now on, in the place of `replaced`."""
        if replaced:
            self.model.labels(replaced).set(0)
        self.model.labels(model).set(1)

    def time_load(self, seconds: float) -> None:
        """Notes when the network for images of Fashion-MNIST was loaded, and how long that took."""
        self.model_loaded.set_to_current_time()
        self.model_load_seconds.set(seconds)

    async def page(self, accept: str) -> tuple[bytes, str]:
        """The metrics, and their Content-Type: Prometheus' text format, or OpenMetrics where `accept` names it."""
        registry = self.registry
        if FOLDER in os.environ:
            registry = CollectorRegistry()
            multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        if prefers_openmetrics(accept):
            return await asyncio.to_thread(openmetrics.generate_latest, registry), openmetrics.CONTENT_TYPE_LATEST
        return await asyncio.to_thread(generate_latest, registry), CONTENT_TYPE_PLAIN_0_0_4


def prefers_openmetrics(accept: str) -> bool:
    """Whether this header Accept names OpenMetrics, and no other text format with a higher quality."""
    quality = {"openmetrics-text": 0.0, "plain": 0.0}
    for kind, _, weight in re.findall(r"(?:application|text)/(openmetrics-text|plain)([^,]*?;q=([\d.]{1,5}))?", accept):
        with suppress(ValueError):
            quality[kind] = max(quality[kind], float(weight or 1))
    return quality["openmetrics-text"] > 0 and quality["openmetrics-text"] >= quality["plain"]


def forget_dead_workers() -> None:
    """Takes the gauges of workers that have ended out of the sums; their counters stay."""
    for file in Path(os.environ.get(FOLDER, "/nonexistent")).glob("gauge_live*_*.db"):
        pid = int(file.stem.rpartition("_")[2])
        if not is_running(pid):
            multiprocess.mark_process_dead(pid)  # type: ignore[no-untyped-call]


def is_running(pid: int) -> bool:
    """Whether there is a process of this id. On Windows, where signal 0 is Ctrl-C, always true."""
    if os.name == "posix":
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:  # it belongs to another user
            return True
    return True
