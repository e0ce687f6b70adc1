"""Hostile checkpoints appear where a service looks for its next one: it answers on, and takes a good one after."""

import asyncio
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import httpx
import pytest

from benchmarks.processes import resident_bytes
from service.metrics import Metrics
from service.model_store import ModelStore
from service.settings import Settings
from tests.classifier.hostile_checkpoints import HOSTILE, generated, good
from tests.service.conftest import DEADLINE_SECONDS, POLL_SECONDS, poll, started

MIB = 2**20
MAX_MEMORY = 300 * MIB
MAX_DELAY_SECONDS = 1.0  # ten times what the soak test allows on an idle machine
NAMES = (  # a file of each kind; the others are in tests/classifier/test_bounded_checkpoints.py
    "tuples as a key, whose hash doubles with each level",
    "a bytearray of 3 GB",
    "11 GB of activations",
    "10,000 parts with the bytes of one",
    "a part with a long name",
    "a pickle of 5 MB",
)


def refusals(client: httpx.Client) -> float:
    """How many checkpoints the service has refused."""
    return float(client.get("/metrics").text.partition("\nfashion_mnist_model_refusals_total ")[2].partition("\n")[0])


class Delays(threading.Thread):
    """Asks /health again and again, and notes the longest time of an answer."""

    def __init__(self, client: httpx.Client) -> None:
        super().__init__()
        self.client = client
        self.longest = 0.0
        self.stopped = threading.Event()

    def run(self) -> None:
        with httpx.Client(base_url=self.client.base_url, timeout=DEADLINE_SECONDS) as client:
            while not self.stopped.wait(POLL_SECONDS):
                begin = time.monotonic()
                assert client.get("/health").status_code == 200
                self.longest = max(self.longest, time.monotonic() - begin)


def test_a_service_survives_hostile_checkpoints(
    tiny_checkpoint: Path, tutorial_state_dict: Path, tmp_path: Path
) -> None:
    served = Path(shutil.copy(tiny_checkpoint, tmp_path / "served.pt"))
    with started("--model", str(served), SERVICE_DRAIN_SECONDS="0") as (process, client):
        before = resident_bytes(process.pid)
        delays = Delays(client)
        delays.start()
        try:
            for name in NAMES:
                (tmp_path / "next").write_bytes(HOSTILE[name]())
                count = refusals(client)
                os.replace(tmp_path / "next", served)
                for _ in poll():
                    if refusals(client) > count:
                        break
                health = client.get("/health").json()
                assert health["model"].startswith("tiny-")
                assert health["refused"].startswith("served.pt ")
                assert len(health["refused"]) < 500
            assert resident_bytes(process.pid) - before < MAX_MEMORY
            served.unlink()
            os.mkfifo(served)
            for _ in poll():
                if "not a regular file" in client.get("/health").text:
                    break
            os.replace(shutil.copy(tutorial_state_dict, tmp_path / "next"), served)
            for _ in poll():
                if client.get("/health").json()["model"].startswith("tutorial-"):
                    break
        finally:
            delays.stopped.set()
            delays.join()
        assert delays.longest < MAX_DELAY_SECONDS
        client.close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_SECONDS) == 0


def test_a_pipe_as_the_first_model_does_not_stop_the_end(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pt")
    with started("--model", str(tmp_path / "pipe.pt"), SERVICE_DRAIN_SECONDS="0") as (process, client):
        assert client.get("/health").json()["detail"] == "pipe.pt is not a regular file."
        client.close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_SECONDS) == 0


@pytest.mark.parametrize("seed", [1])
def test_the_event_loop_goes_on_while_generated_checkpoints_are_read(
    seed: int, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    path = Path(shutil.copy(tiny_checkpoint, tmp_path / "model.pt"))
    files = good(tmp_path)

    async def longest_delay(stopped: asyncio.Event) -> float:
        longest = 0.0
        while not stopped.is_set():
            begin = time.monotonic()
            await asyncio.sleep(POLL_SECONDS / 4)
            longest = max(longest, time.monotonic() - begin)
        return longest

    async def ask() -> None:
        models = ModelStore(Settings(model=path, max_batch=1), Metrics())
        await models.load()
        stopped = asyncio.Event()
        measuring = asyncio.create_task(longest_delay(stopped))
        for content in generated(300, files, seed):
            path.write_bytes(content)
            await models.load()
            models.current()
        shutil.copy(tiny_checkpoint, path)
        await models.load()
        assert models.refusal is None
        stopped.set()
        assert await measuring < MAX_DELAY_SECONDS

    asyncio.run(ask())
