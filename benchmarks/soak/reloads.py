"""A new model over and over under load: `python -m benchmarks.soak.reloads [--reloads 100] [--workers 2]`."""

import argparse
import asyncio
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import uvloop

from benchmarks.soak.client import Reply, Tally, press, request
from benchmarks.soak.running import CORES, MODEL, SHOE, Service, close, running
from classifier import checkpoint

CONNECTIONS = 4
SERVING_SECONDS = 5.0  # until a new checkpoint answers in every worker
PAUSE_SECONDS = 0.02  # between two requests of a connection: the load need not be all that is possible
WARM_RELOADS = 10  # before memory is compared
MAX_SLOPE = 0.1  # MiB a reload
MESSAGE = request(SHOE)


def variants(folder: Path) -> list[Path]:
    """Two checkpoints of the shipped network, whose files and so whose names differ."""
    shipped = checkpoint.load(MODEL)
    paths = []
    for number in range(2):
        shipped.training["variant"] = number
        paths.append(folder / f"{number}.pt")
        checkpoint.save(shipped, paths[-1])
    return paths


class Watch:
    """The latest model that each process answered with, by what its request ids begin with."""

    def __init__(self) -> None:
        self.latest: dict[str, str] = {}
        self.over = False

    def look(self, reply: Reply) -> None:
        process = reply.head.partition(b"x-request-id: ")[2].partition(b"-")[0].decode()
        if reply.status == 200:
            self.latest[process] = json.loads(reply.body)["model"]


async def reload(service: Service, served: Path, files: list[Path], times: int, workers: int) -> "Figures":
    watch, tally = Watch(), Tally()
    asking = asyncio.create_task(
        press(service.port, CONNECTIONS, lambda: None if watch.over else MESSAGE, tally, watch.look)
    )
    asking_anew = asyncio.create_task(ask_anew(service.port, watch, tally))
    seconds, megabytes = [], []
    try:
        while len(watch.latest) < workers:
            await asyncio.sleep(PAUSE_SECONDS)
        for number in range(times):
            expected = checkpoint.load(file := files[(number + 1) % 2]).model
            shutil.copyfile(file, served)
            begin = time.monotonic()
            while set(watch.latest.values()) != {expected} and time.monotonic() - begin < 2 * SERVING_SECONDS:
                await asyncio.sleep(PAUSE_SECONDS)
            seconds.append(time.monotonic() - begin)
            megabytes.append(service.megabytes())
    finally:
        watch.over = True
        await asyncio.gather(asking, asking_anew)
    return Figures(seconds, megabytes, tally)


async def ask_anew(port: int, watch: Watch, tally: Tally) -> None:
    """A new connection for each request, so that every worker is heard of."""
    while not watch.over:
        await press(port, 1, iter((MESSAGE, None)).__next__, tally, watch.look)
        await asyncio.sleep(PAUSE_SECONDS)


class Figures:
    """What came of the reloads: how long each took, the memory after it in MiB, and all requests."""

    def __init__(self, seconds: list[float], megabytes: list[float], tally: Tally) -> None:
        self.seconds = seconds
        self.megabytes = megabytes
        self.tally = tally

    def slope(self) -> float:
        """MiB a reload, by least squares, once warm."""
        settled = self.megabytes[WARM_RELOADS:]
        return float(np.polyfit(range(len(settled)), settled, 1)[0])


def broken(service: Service, served: Path, file: Path) -> bool:
    """Whether a half-copied file changes nothing and `/health` reports it."""
    before = service.predict().json()["model"]
    served.write_bytes(file.read_bytes()[:-1000])
    begin = time.monotonic()
    health = service.get("/health").json()
    while "refused" not in health and time.monotonic() - begin < SERVING_SECONDS:
        time.sleep(PAUSE_SECONDS)
        health = service.get("/health").json()
    print(f"A half-copied file: {health}")
    same = {service.predict().json()["model"] for _ in range(20)} == {before}
    return same and "refused" in health and "fashion_mnist_model_refusals_total 0.0" not in service.get("/metrics").text


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak.reloads", description=__doc__)
    parser.add_argument("--reloads", type=int, default=100, help="(100)")
    parser.add_argument("--workers", type=int, default=min(2, len(CORES)), help="(2, at most one a core)")
    arguments = parser.parse_args()
    print(f"The load average is {os.getloadavg()[0]:.1f} before the start.")
    with tempfile.TemporaryDirectory() as folder:
        files = variants(Path(folder))
        served = Path(shutil.copy(files[0], Path(folder, "served.pt")))
        flags = ("--model", str(served), "--workers", str(arguments.workers))
        with running(*flags, cores=CORES, SERVICE_DRAIN_SECONDS="0") as service:
            figures = uvloop.run(reload(service, served, files, arguments.reloads, arguments.workers))
            refused = broken(service, served, files[0])
    tally, longest = figures.tally, max(figures.seconds)
    print(f"{len(figures.seconds)} reloads in {arguments.workers} workers; the longest served after {longest:.1f} s.")
    print(f"Requests meanwhile: {tally.statuses()}, the slowest {1e3 * tally.slowest():.0f} ms; {dict(tally.errors)}")
    print(
        f"Memory after reload {WARM_RELOADS}: {figures.megabytes[WARM_RELOADS]:.0f} MiB, after the last: "
        f"{figures.megabytes[-1]:.0f} MiB; {figures.slope():+.3f} MiB a reload."
    )
    return close(
        "reloads",
        {
            "reloads": len(figures.seconds),
            "longest_seconds": longest,
            "statuses": tally.statuses(),
            "slowest_ms": 1e3 * tally.slowest(),
            "megabytes": [round(value, 1) for value in figures.megabytes[:: max(1, arguments.reloads // 10)]],
            "megabytes_a_reload": figures.slope(),
        },
        {
            f"a new model serves within {SERVING_SECONDS:g} s": longest <= SERVING_SECONDS,
            "no request fails": tally.statuses().keys() == {200},
            "memory does not grow": figures.slope() <= MAX_SLOPE,
            "a half-copied file is refused and changes nothing": refused,
        },
    )


if __name__ == "__main__":
    sys.exit(main())
