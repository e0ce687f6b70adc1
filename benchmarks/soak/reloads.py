"""Soak test: hot reload of the model under load: `python -m benchmarks.soak.reloads [--reloads 100] [--workers 2]`."""

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

from benchmarks.soak.client import Reply, RequestStats, generate_load, request
from benchmarks.soak.service_process import CORES, MODEL, SHOE, Service, print_verdict, run_service
from classifier import checkpoint

CONNECTIONS = 4
RELOAD_SECONDS = 5.0  # within which every worker must serve a new checkpoint
POLL_SECONDS = 0.02
WARMUP_RELOADS = 10  # memory is compared from then on
MAX_SLOPE = 0.1  # MiB a reload
MESSAGE = request(SHOE)


def write_variants(folder: Path) -> list[Path]:
    """Writes two checkpoints of the shipped network. Their files differ, and therefore their model names do."""
    shipped = checkpoint.load(MODEL)
    paths = []
    for number in range(2):
        shipped.training["variant"] = number
        paths.append(folder / f"{number}.pt")
        checkpoint.save(shipped, paths[-1])
    return paths


class ServedModels:
    """The model that each worker answered with last. A worker is known by the first part of its request ids."""

    def __init__(self) -> None:
        self.latest: dict[str, str] = {}
        self.stopped = False

    def add(self, reply: Reply) -> None:
        worker = reply.head.partition(b"x-request-id: ")[2].partition(b"-")[0].decode()
        if reply.status == 200:
            self.latest[worker] = json.loads(reply.body)["model"]


async def reload(service: Service, served: Path, files: list[Path], times: int, workers: int) -> "Figures":
    """Copies the two files to `served` in turn, `times` times, and waits each time until every worker serves it."""
    models, stats = ServedModels(), RequestStats()
    load = asyncio.create_task(
        generate_load(service.port, CONNECTIONS, lambda: None if models.stopped else MESSAGE, stats, models.add)
    )
    new_connections = asyncio.create_task(open_connections(service.port, models, stats))
    seconds, megabytes = [], []
    try:
        while len(models.latest) < workers:
            await asyncio.sleep(POLL_SECONDS)
        for number in range(times):
            expected = checkpoint.load(file := files[(number + 1) % 2]).model
            shutil.copyfile(file, served)
            begin = time.monotonic()
            while set(models.latest.values()) != {expected} and time.monotonic() - begin < 2 * RELOAD_SECONDS:
                await asyncio.sleep(POLL_SECONDS)
            seconds.append(time.monotonic() - begin)
            megabytes.append(service.megabytes())
    finally:
        models.stopped = True
        await asyncio.gather(load, new_connections)
    return Figures(seconds, megabytes, stats)


async def open_connections(port: int, models: ServedModels, stats: RequestStats) -> None:
    """Sends each request on a new connection, so that every worker gets some."""
    while not models.stopped:
        await generate_load(port, 1, iter((MESSAGE, None)).__next__, stats, models.add)
        await asyncio.sleep(POLL_SECONDS)


class Figures:
    """The time of each reload, the memory after it in MiB, and the statistics of all requests."""

    def __init__(self, seconds: list[float], megabytes: list[float], stats: RequestStats) -> None:
        self.seconds = seconds
        self.megabytes = megabytes
        self.stats = stats

    def slope(self) -> float:
        """Memory growth after the warm-up in MiB a reload, by least squares."""
        warm = self.megabytes[WARMUP_RELOADS:]
        return float(np.polyfit(range(len(warm)), warm, 1)[0])


def incomplete_file_is_refused(service: Service, served: Path, file: Path) -> bool:
    """Whether an incomplete file leaves the model in place and is reported by /health and /metrics."""
    before = service.predict().json()["model"]
    served.write_bytes(file.read_bytes()[:-1000])
    begin = time.monotonic()
    health = service.get("/health").json()
    while "refused" not in health and time.monotonic() - begin < RELOAD_SECONDS:
        time.sleep(POLL_SECONDS)
        health = service.get("/health").json()
    print(f"/health after an incomplete file: {health}")
    same = {service.predict().json()["model"] for _ in range(20)} == {before}
    return same and "refused" in health and "fashion_mnist_model_refusals_total 0.0" not in service.get("/metrics").text


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak.reloads", description=__doc__)
    parser.add_argument("--reloads", type=int, default=100, metavar="N", help="default: 100")
    parser.add_argument(
        "--workers", type=int, default=min(2, len(CORES)), metavar="N", help="default: 2, or 1 on a single core"
    )
    arguments = parser.parse_args()
    print(f"The load average is {os.getloadavg()[0]:.1f} before the start.")
    with tempfile.TemporaryDirectory() as folder:
        files = write_variants(Path(folder))
        served = Path(shutil.copy(files[0], Path(folder, "served.pt")))
        flags = ("--model", str(served), "--workers", str(arguments.workers))
        with run_service(*flags, cores=CORES, SERVICE_DRAIN_SECONDS="0") as service:
            figures = uvloop.run(reload(service, served, files, arguments.reloads, arguments.workers))
            refused = incomplete_file_is_refused(service, served, files[0])
    stats, longest = figures.stats, max(figures.seconds)
    print(f"{len(figures.seconds)} reloads in {arguments.workers} workers; the slowest took {longest:.1f} s.")
    print(f"Requests: {stats.statuses()}, the slowest {1e3 * stats.slowest():.0f} ms; {dict(stats.errors)}")
    print(
        f"Memory after reload {WARMUP_RELOADS}: {figures.megabytes[WARMUP_RELOADS]:.0f} MiB, after the last: "
        f"{figures.megabytes[-1]:.0f} MiB; {figures.slope():+.3f} MiB a reload."
    )
    return print_verdict(
        "reloads",
        {
            "reloads": len(figures.seconds),
            "longest_seconds": longest,
            "statuses": stats.statuses(),
            "slowest_ms": 1e3 * stats.slowest(),
            "megabytes": [round(value, 1) for value in figures.megabytes[:: max(1, arguments.reloads // 10)]],
            "megabytes_a_reload": figures.slope(),
        },
        {
            f"every worker serves a new model within {RELOAD_SECONDS:g} s": longest <= RELOAD_SECONDS,
            "no request fails": stats.statuses().keys() == {200},
            "memory does not grow": figures.slope() <= MAX_SLOPE,
            "an incomplete file is refused and the model stays": refused,
        },
    )


if __name__ == "__main__":
    sys.exit(main())
