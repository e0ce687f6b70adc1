"""Keep-alive clients that send pictures in a loop, and what they got."""

import json
import os
import threading
from asyncio import run
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import cycle

from PIL import Image

from benchmarks.soak.client import Reply, RequestStats, generate_load, request
from tests.service.conftest import SHOE, encoded, poll

CONNECTIONS = 8
PHOTO_EVERY = 25  # requests
WAIT_SECONDS = 300.0
NICENESS = 10  # so that replicas which start have the CPU before the clients, which take all that is left


def photo(side: int, quality: int) -> bytes:
    """A JPEG of the shoe with the noise of a camera."""
    shoe = Image.open(SHOE).convert("L").resize((side, side))
    return encoded(Image.blend(shoe, Image.effect_noise((side, side), 60), 0.5), format="JPEG", quality=quality)


class Load:
    """Requests of keep-alive clients, with the process and the model of each answer."""

    def __init__(self, port: int) -> None:
        self.stats = RequestStats()
        self.latest: dict[bytes, str] = {}  # model of the latest answer of each process
        self.over = threading.Event()
        self._port = port
        picture = request(SHOE.read_bytes())
        large = request(photo(500, 90), "image/jpeg")
        self._messages = cycle([*[picture] * (PHOTO_EVERY - 1), large])

    def run(self) -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        run(generate_load(self._port, CONNECTIONS, self._next, self.stats, self._record))

    def _next(self) -> bytes | None:
        return None if self.over.is_set() else next(self._messages)

    def _record(self, reply: Reply) -> None:
        if reply.status == 200:
            process = reply.head.partition(b"x-request-id: ")[2].partition(b"-")[0]  # the first 8 digits
            self.latest[process] = json.loads(reply.body)["model"]

    def total(self) -> int:
        return sum(self.stats.statuses().values())

    def wait_for(self, total: int) -> None:
        for _ in poll(WAIT_SECONDS):
            if self.total() >= total:
                return


@contextmanager
def loaded(port: int) -> Iterator[Load]:
    load = Load(port)
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(load.run)
        try:
            load.wait_for(10 * CONNECTIONS)
            yield load
        finally:
            load.over.set()
            future.result()
