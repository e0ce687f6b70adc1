"""The service under soak test: a process on a core of its own; and the verdict of a soak test."""

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

from benchmarks.processes import free_port, process_tree, resident_bytes, stop_process

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "models/model_scratch.pt"
SHOE = (ROOT / "shoe.png").read_bytes()
MIB = 2**20
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
        """Resident memory of all its processes in MiB; shared pages count once for each process."""
        return sum(map(resident_bytes, process_tree(self.process.pid))) / MIB

    def open_files(self) -> int:
        return sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in process_tree(self.process.pid))


@contextmanager
def run_service(*flags: str, cores: list[int] = SERVICE_CORES, **environment: str) -> Iterator[Service]:
    """Starts the service with `flags` and `environment` on `cores`, waits until it is healthy, and stops it afterwards.

    This process moves to the other cores. The service's log is discarded. Raises RuntimeError if it does not start.
    """
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
        while not is_healthy(service):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("The service did not start.")
            time.sleep(POLL_SECONDS)
        yield service
    finally:
        stop_process(process)


def is_healthy(service: Service) -> bool:
    try:
        return service.get("/health").status_code == 200
    except httpx.TransportError:
        return False


def raise_file_limit() -> None:
    """Raises the limit of open files to its maximum, for this process and its children."""
    _, maximum = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (maximum, maximum))


def print_verdict(name: str, figures: dict[str, object], requirements: dict[str, bool]) -> int:
    """Prints whether each requirement held, then all figures as a line of JSON; gives the exit code."""
    for requirement, held in requirements.items():
        print(f"{'held' if held else 'FAILED'}: {requirement}")
    all_held = all(requirements.values())
    print(json.dumps({"soak": name, "held": all_held, **figures, "load_average": os.getloadavg()[0]}))
    return 0 if all_held else 1
