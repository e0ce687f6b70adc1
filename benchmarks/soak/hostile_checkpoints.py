"""Soak test: checkpoints that mean harm: `python -m benchmarks.soak.hostile_checkpoints [--files 100000] [--seed 0]`.

First each hostile file is put where a running service looks for its next checkpoint, then generated files are loaded
beside an event loop, as the service loads them.
"""

import argparse
import asyncio
import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

import httpx

from benchmarks.processes import resident_bytes
from benchmarks.soak.service_process import CORES, MIB, MODEL, POLL_SECONDS, Service, print_verdict, run_service
from service.metrics import Metrics
from service.model_store import ModelStore
from service.settings import Settings
from tests.classifier.hostile_checkpoints import HOSTILE, generated, good

MAX_DELAY_SECONDS = 0.1  # of /health, and of the event loop
MAX_MEGABYTES = 300  # more than before, while files are looked at
REFUSAL_SECONDS = 30.0
STOP_SECONDS = 10.0
REPORT_EVERY = 10_000  # files


def longest_answer(port: int, stopped: threading.Event, longest: list[float]) -> None:
    """Asks /health until stopped, and appends the longest time of an answer."""
    longest.append(0.0)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=REFUSAL_SECONDS) as client:
        while not stopped.wait(POLL_SECONDS / 5):
            begin = time.monotonic()
            client.get("/health").raise_for_status()
            longest[0] = max(longest[0], time.monotonic() - begin)


def refusals(service: Service) -> str:
    return service.get("/metrics").text.partition("\nfashion_mnist_model_refusals_total ")[2].partition("\n")[0]


def offer_hostile_files(service: Service, folder: Path, served: Path) -> tuple[float, float, list[str]]:
    """The longest time of /health in seconds, the most memory over that before in MiB, and the files not refused."""
    files = {name: make() for name, make in HOSTILE.items()}  # before time is measured
    stopped, longest, accepted = threading.Event(), list[float](), list[str]()
    before = most = service.megabytes()
    asking = threading.Thread(target=longest_answer, args=(service.port, stopped, longest))
    asking.start()
    for name, content in files.items():
        (folder / "next").write_bytes(content)
        count, begin = refusals(service), time.monotonic()
        os.replace(folder / "next", served)
        while refusals(service) == count and time.monotonic() - begin < REFUSAL_SECONDS:
            most = max(most, service.megabytes())
            time.sleep(POLL_SECONDS)
        if refusals(service) == count:
            accepted.append(name)
        print(f"{time.monotonic() - begin:5.1f} s  /health at most {1e3 * longest[0]:3.0f} ms  {name}")
    stopped.set()
    asking.join()
    return longest[0], most - before, accepted


async def load_generated_files(count: int, seed: int, folder: Path) -> tuple[float, float, bool]:
    """The longest delay of the event loop in seconds, the growth of memory in MiB, and whether a good file is taken."""
    path = Path(shutil.copy(MODEL, folder / "model.pt"))
    models = ModelStore(Settings(model=path, max_batch=1), Metrics())
    await models.load()
    name, longest, done = models.current().classifier.model, 0.0, False

    async def measure() -> None:
        nonlocal longest
        while not done:
            begin = time.monotonic()
            await asyncio.sleep(POLL_SECONDS / 5)
            longest = max(longest, time.monotonic() - begin - POLL_SECONDS / 5)

    measuring = asyncio.create_task(measure())
    before = most = resident_bytes(os.getpid()) / MIB
    for number, content in enumerate(generated(count, good(folder), seed), start=1):
        path.write_bytes(content)
        await models.load()
        most = max(most, resident_bytes(os.getpid()) / MIB)
        if number % REPORT_EVERY == 0:
            print(
                f"{number:,} files; event loop at most {1e3 * longest:.0f} ms late; {most - before:+.0f} MiB",
                flush=True,
            )
    shutil.copy(MODEL, path)
    await models.load()
    done = True
    await measuring
    return longest, most - before, models.refusal is None and models.current().classifier.model == name


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak.hostile_checkpoints", description=__doc__)
    parser.add_argument("--files", type=int, default=100_000, metavar="N", help="generated files (default: 100000)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the generated files (default: 0)")
    arguments = parser.parse_args()
    logging.disable()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        served = Path(shutil.copy(MODEL, folder / "served.pt"))
        with run_service("--model", str(served), cores=CORES, SERVICE_DRAIN_SECONDS="0") as service:
            model = service.predict().json()["model"]
            answer_seconds, megabytes, accepted = offer_hostile_files(service, folder, served)
            stays = service.predict().json()["model"] == model
            begin = time.monotonic()
            service.process.send_signal(signal.SIGTERM)
            exit_code = service.process.wait(6 * STOP_SECONDS)
            stop_seconds = time.monotonic() - begin
        delay, growth, taken = asyncio.run(load_generated_files(arguments.files, arguments.seed, folder))
    return print_verdict(
        "hostile_checkpoints",
        {
            "hostile_files": len(HOSTILE),
            "generated_files": arguments.files,
            "longest_health_ms": 1e3 * answer_seconds,
            "longest_delay_ms": 1e3 * delay,
            "megabytes": [round(megabytes), round(growth)],
            "stop_seconds": stop_seconds,
        },
        {
            f"every hostile file is refused within {REFUSAL_SECONDS:g} s": not accepted,
            f"/health answers within {1e3 * MAX_DELAY_SECONDS:g} ms": answer_seconds <= MAX_DELAY_SECONDS,
            f"the event loop is at most {1e3 * MAX_DELAY_SECONDS:g} ms late": delay <= MAX_DELAY_SECONDS,
            f"memory grows by at most {MAX_MEGABYTES} MiB": max(megabytes, growth) <= MAX_MEGABYTES,
            "the model before stays": stays,
            "the next good file is taken": taken,
            f"SIGTERM ends the service within {STOP_SECONDS:g} s": exit_code == 0 and stop_seconds <= STOP_SECONDS,
        },
    )


if __name__ == "__main__":
    sys.exit(main())
