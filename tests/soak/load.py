"""Clients that ask again and again, and note every answer: for the soak tests beside this file."""

import asyncio
import math
import os
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import uvloop

from tests.benchmarks.processes import Server, resident_bytes, started, tree

ROOT = Path(__file__).parents[2]
SHOE = (ROOT / "shoe.png").read_bytes()
MODEL = ROOT / "models/model_scratch.pt"
LENGTH = re.compile(rb"content-length: (\d+)")
PORT = 18_080
URL = f"http://127.0.0.1:{PORT}"
MIB = 2**20

Build = Callable[[], bytes]  # the next request


@dataclass(frozen=True)
class Answered:
    """An answered request. Times are in seconds, `ended` by time.perf_counter."""

    status: int
    took: float
    ended: float
    head: bytes
    body: bytes


@dataclass
class Load:
    """What all clients have seen. `resets`: connections that ended without the answer."""

    answers: list[Answered] = field(default_factory=list)
    resets: int = 0
    over: bool = False

    def statuses(self) -> dict[int, int]:
        return dict(sorted(Counter(answer.status for answer in self.answers).items()))

    def quantile(self, share: float, status: int = 200) -> float:
        """Seconds that this share of the requests with that status stayed below."""
        took = sorted(answer.took for answer in self.answers if answer.status == status)
        return took[min(len(took) - 1, math.ceil(share * len(took)) - 1)] if took else math.nan


class Client(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self, load: Load, build: Build) -> None:
        self.load = load
        self.build = build
        self.ended = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.ask()

    def ask(self) -> None:
        self.received = b""
        self.begin = time.perf_counter()
        self.transport.write(self.build())

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, found, body = self.received.partition(b"\r\n\r\n")
        length = LENGTH.search(head)
        if not found or (length and len(body) < int(length[1])):
            return
        now = time.perf_counter()
        self.load.answers.append(Answered(int(head[9:12]), now - self.begin, now, head, body))
        self.begin = math.nan
        if self.load.over or b"connection: close" in head:
            self.transport.close()
        else:
            self.ask()

    def connection_lost(self, error: Exception | None) -> None:
        self.load.resets += not math.isnan(self.begin)
        self.ended.set_result(None)


def upload(picture: bytes) -> bytes:
    """The request with this picture as its body."""
    head = b"POST /predict HTTP/1.1\r\nHost: soak\r\nContent-Type: image/png\r\nContent-Length: %d\r\n\r\n"
    return head % len(picture) + picture


async def press(load: Load, build: Build, connections: int, is_over: Callable[[], bool]) -> None:
    """Asks over so many connections until it is over; one that the service ends is opened again."""

    async def keep_asking() -> None:
        while not load.over:
            _, client = await asyncio.get_running_loop().create_connection(
                lambda: Client(load, build), "127.0.0.1", PORT
            )
            await client.ended

    clients = asyncio.gather(*(keep_asking() for _ in range(connections)))
    while not is_over():
        await asyncio.sleep(0.05)
    load.over = True
    await clients


def pressed(build: Build, connections: int, seconds: float) -> Load:
    """What came of pressing for that long."""
    load, end = Load(), time.perf_counter() + seconds
    uvloop.run(press(load, build, connections, lambda: time.perf_counter() > end))
    return load


@contextmanager
def service(workers: int = 1, model: Path = MODEL, **environment: str) -> Iterator[Server]:
    """The service on the first core, or on all where it has several workers, and this process on the last."""
    cores = sorted(os.sched_getaffinity(0))
    command = [sys.executable, "-m", "service", "--port", str(PORT), "--model", str(model), "--workers", str(workers)]
    with (
        tempfile.TemporaryDirectory() as folder,
        started(
            command,
            {"SERVICE_ACCESS_LOG": "0", "SERVICE_DRAIN_SECONDS": "0", **environment},
            cores if workers > 1 else cores[:1],
            is_up,
            ROOT,
            Path(folder, "log"),
        ) as server,
        server.turn(),
    ):
        os.sched_setaffinity(0, cores[-1:])
        try:
            yield server
        finally:
            os.sched_setaffinity(0, cores)


def is_up() -> bool:
    try:
        return httpx.get(f"{URL}/health").status_code == 200
    except httpx.TransportError:
        return False


def memory(server: Server) -> float:
    """MiB of the largest of its processes, the one that serves."""
    return max(map(resident_bytes, tree(server.process.pid))) / MIB
