"""What the service counts, for Prometheus, right with several workers as well.

Several workers share a folder, named by PROMETHEUS_MULTIPROC_DIR, with a file each; whoever is asked adds all up.
"""

import asyncio
import os
from pathlib import Path

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    multiprocess,
)

from classifier.classifier import Prediction
from classifier.networks import CLASSES

FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # the variable by which prometheus_client finds it
CONTENT_TYPE = CONTENT_TYPE_LATEST
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
TOGETHER, LATEST_SECONDS = 32, 0.1  # requests that are counted at once, and how long one is noted alone
PICTURES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The counters of one app. Times are in seconds."""

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled
        self.registry = registry = CollectorRegistry()
        self.requests = Counter("service_requests", "Answered requests.", ["route", "status"], registry=registry)
        self.request_seconds = Histogram(
            "service_request_seconds", "From its headers to its answer.", ["route"], buckets=SECONDS, registry=registry
        )
        self.queue_seconds = Histogram(
            "service_queue_seconds", "That a picture waited.", buckets=SECONDS, registry=registry
        )
        self.decode_seconds = Histogram(
            "service_decode_seconds", "That a picture took to decode.", buckets=SECONDS, registry=registry
        )
        self.inference_seconds = Histogram(
            "service_inference_seconds", "That a batch took the network.", buckets=SECONDS, registry=registry
        )
        self.batch_pictures = Histogram(
            "service_batch_pictures", "Pictures that the network saw at once.", buckets=PICTURES, registry=registry
        )
        self.waiting = Gauge(
            "service_waiting", "Pictures that wait or are worked on.", registry=registry, multiprocess_mode="livesum"
        )
        self.rejected = Counter("service_rejected", "Refused requests and pictures.", ["reason"], registry=registry)
        predictions = Counter("service_predictions", "Predicted classes.", ["class"], registry=registry)
        self.predictions = [predictions.labels(name) for name in CLASSES]
        self.confidence = Counter(
            "service_confidence", "Sum of all confidences; over service_predictions their mean.", registry=registry
        )
        self.model = Gauge(
            "service_model",
            "1 for the model that answers, 0 for those before it.",
            ["model"],
            registry=registry,
            multiprocess_mode="livemin",
        )
        self.model_loaded = Gauge(
            "service_model_loaded_timestamp_seconds",
            "When the model was loaded.",
            registry=registry,
            multiprocess_mode="livemin",
        )
        self.model_load_seconds = Gauge(
            "service_model_load_seconds", "That it took.", registry=registry, multiprocess_mode="livemax"
        )
        self.model_refusals = Counter("service_model_refusals", "Checkpoints that were not served.", registry=registry)

        self._models: set[str] = set()
        self._answered: list[tuple[str, int, float]] = []
        self._requests: dict[tuple[str, int], tuple[Counter, Histogram]] = {}

    def count_request(self, route: str, status: int, seconds: float) -> None:
        """One request more. It is noted, and counted with others: a tight loop takes a third of the time.

        With others, but soon: another worker may be the one that is asked, and sees only what is counted.
        """
        if not self.enabled:
            return
        if not self._answered:
            asyncio.get_running_loop().call_later(LATEST_SECONDS, self.count_requests)
        self._answered.append((route, status, seconds))
        if len(self._answered) >= TOGETHER:
            self.count_requests()

    def count_requests(self) -> None:
        """Counts what was noted."""
        answered, self._answered = self._answered, []
        for route, status, seconds in answered:
            if (known := self._requests.get((route, status))) is None:
                known = self.requests.labels(route, str(status)), self.request_seconds.labels(route)
                self._requests[route, status] = known
            known[0].inc()
            known[1].observe(seconds)

    def count_batch(
        self, answers: list[Prediction], queued: list[float], decoding: list[float], seconds: float, waiting: int
    ) -> None:
        """One batch more: its answers, how long its pictures waited and took to decode, how long the network took,
        and how many pictures were waiting or in it.
        """
        self.waiting.set(waiting)
        self.batch_pictures.observe(len(answers))
        self.inference_seconds.observe(seconds)
        self.confidence.inc(sum(answer["confidence"] for answer in answers))
        for answer in answers:
            self.predictions[answer["index"]].inc()
        for wait in queued:
            self.queue_seconds.observe(wait)
        for duration in decoding:
            self.decode_seconds.observe(duration)

    def count_load(self, model: str, seconds: float) -> None:
        """`model` answers from now on; loading it took `seconds`."""
        self._models.add(model)
        for name in self._models:
            self.model.labels(name).set(name == model)
        self.model_loaded.set_to_current_time()
        self.model_load_seconds.set(seconds)

    async def page(self) -> bytes:
        """What Prometheus reads."""
        self.count_requests()
        registry = self.registry
        if FOLDER in os.environ:
            registry = CollectorRegistry()
            multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return await asyncio.to_thread(generate_latest, registry)


def forget_dead_workers() -> None:
    """Takes what workers that are gone last said of themselves out of the sums; what they counted stays."""
    for file in Path(os.environ.get(FOLDER, "/nonexistent")).glob("gauge_live*_*.db"):
        pid = int(file.stem.rpartition("_")[2])
        if not Path(f"/proc/{pid}").exists():
            multiprocess.mark_process_dead(pid)  # type: ignore[no-untyped-call]
