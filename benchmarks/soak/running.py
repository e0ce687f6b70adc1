"""The service as its own process on its own core, and the final report of each soak test."""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from benchmarks.processes import end, resident_bytes, tree
from tests.service.conftest import free_port

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "models/model_scratch.pt"
SHOE = (ROOT / "shoe.png").read_bytes()
MEBIBYTE = 2**20
START_SECONDS = 60.0
POLL_SECONDS = 0.05
CORES = sorted(os.sched_getaffinity(0))
SERVICE_CORES, CLIENT_CORES = CORES[:1], CORES[1:] or CORES


class Service:
    """A running service."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process = process
        self.port = port

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{self.port}{path}", timeout=START_SECONDS)

    def predict(self) -> httpx.Response:
        return httpx.post(f"http://127.0.0.1:{self.port}/predict", files={"file": SHOE}, timeout=START_SECONDS)

    def megabytes(self) -> float:
        """Resident memory of all its processes in MiB; pages that they share count for each."""
        return sum(map(resident_bytes, tree(self.process.pid))) / MEBIBYTE

    def open_files(self) -> int:
        return sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in tree(self.process.pid))


@contextmanager
def running(*flags: str, cores: list[int] = SERVICE_CORES, **environment: str) -> Iterator[Service]:
    """The service with these flags and variables on `cores`, once it has its model. Its log is discarded."""
    os.sched_setaffinity(0, CLIENT_CORES)
    port = free_port()
    pinned = ["taskset", "-c", ",".join(map(str, cores))]
    process = subprocess.Popen(
        [*pinned, sys.executable, "-m", "service", "--port", str(port), *flags],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "SERVICE_ACCESS_LOG": "0", **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    service = Service(process, port)
    deadline = time.monotonic() + START_SECONDS
    try:
        while not answers(service):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("The service did not start.")
            time.sleep(POLL_SECONDS)
        yield service
    finally:
        end(process)


def answers(service: Service) -> bool:
    try:
        return service.get("/health").status_code == 200
    except httpx.TransportError:
        return False


def raise_file_limit() -> None:
    """Raises the limit of open files to the allowed maximum, for this process and its children."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def close(name: str, figures: dict[str, object], kept: dict[str, bool]) -> int:
    """Prints which requirements were kept, then all figures as a line of JSON; returns the exit code."""
    for requirement, held in kept.items():
        print(f"{'kept' if held else 'BROKEN'}: {requirement}")
    print(json.dumps({"soak": name, "kept": all(kept.values()), **figures, "load_average": os.getloadavg()[0]}))
    return 0 if all(kept.values()) else 1
