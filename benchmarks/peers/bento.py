"""BentoML with adaptive batching, as its documentation advises: `bentoml serve benchmarks.peers.bento:Service`.

Its access log and metrics are off, as those of every contender. Its batching window adapts slowly: a single connection
waits for 130 ms right after a load of 128 connections, and for 4 ms otherwise.
"""

from typing import Any

import bentoml
import torch
from PIL.Image import Image

from benchmarks.peers import tutorial

MAX_BATCH = 32
MAX_LATENCY_MS = 1000


@bentoml.service(
    workers=1,
    logging={"access": {"enabled": False}},
    metrics={"enabled": False},
    traffic={"max_concurrency": 1000},
)
class Service:
    def __init__(self) -> None:
        self.network = tutorial.load()

    @bentoml.api(batchable=True, max_batch_size=MAX_BATCH, max_latency_ms=MAX_LATENCY_MS)
    def predict(self, file: list[Image]) -> list[dict[str, Any]]:
        return tutorial.predict(self.network, torch.stack([tutorial.to_pixels(picture) for picture in file]))
