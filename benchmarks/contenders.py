"""Who takes part, what each must answer, and how each is started.

All serve the tutorial's Net from one bare state dict, but for those that are ours with the shipped checkpoint.
"""

import io
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from benchmarks.load import Load, LoadError, form, press
from benchmarks.peers.tutorial import WEIGHTS
from benchmarks.processes import Server, started
from classifier.classifier import Classifier
from classifier.networks import CLASSES, Net
from classifier.preprocessing import read_pixels

ROOT = Path(__file__).parents[1]
SHIPPED = ROOT / "models/model_scratch.pt"
SHOE = (ROOT / "shoe.png").read_bytes()
SHOE_CLASS, TURNED_CLASS = "Ankle boot", "Bag"  # labels that the benchmark's Net is trained on
TRAINING_STEPS, LEARNING_RATE = 60, 1e-3
TIMEOUT_SECONDS = 30.0
WARM_UPS, WARM_UP_CONNECTIONS, WARM_UP_REST_SECONDS = 10, 128, 2

Command = Callable[[int, Path], list[str]]  # of a port and the weights


@dataclass(frozen=True)
class Contender:
    name: str
    what: str
    command: Command
    package: str = "fastapi"  # package that it needs
    environment: dict[str, str] = field(default_factory=dict)
    shipped: bool = False  # serves that checkpoint instead of the tutorial's Net
    answers: bool = True  # else it answers {}
    cores: int = 1
    scaling: bool = False  # measures scaling over cores only


def ours(workers: int) -> Command:
    return lambda port, weights: [
        sys.executable, "-m", "service", "--port", str(port), "--model", str(weights), "--workers", str(workers)
    ]  # fmt: skip


def uvicorn(module: str) -> Command:
    return lambda port, weights: [
        sys.executable, "-m", "uvicorn", f"benchmarks.peers.{module}:app", "--port", str(port),
        "--no-access-log", "--log-level", "warning",
    ]  # fmt: skip


def script(module: str) -> Command:
    return lambda port, weights: [sys.executable, "-m", f"benchmarks.peers.{module}", str(port)]


def bentoml(port: int, weights: Path) -> list[str]:
    service = "benchmarks.peers.bento:Service"
    return [sys.executable, "-m", "bentoml", "serve", service, "--host", "127.0.0.1", "--port", str(port), "-q"]


QUIET = {"SERVICE_ACCESS_LOG": "0", "SERVICE_METRICS": "0"}  # the others have neither
RAY = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # despite its name: a cluster of this machine alone, on 127.0.0.1
}
CONTENDERS = (
    Contender("noop", "FastAPI upload endpoint that does nothing", uvicorn("noop"), answers=False),
    Contender("ours", "this service", ours(1), environment=QUIET),
    Contender("shipped", "this service, its own checkpoint", ours(1), environment=QUIET, shipped=True),
    Contender("usual", "FastAPI + Pillow + torchvision + torch", uvicorn("usual"), "torchvision"),
    Contender("litserve", "LitServe, dynamic batching", script("lit"), "litserve"),
    Contender("bentoml", "BentoML, adaptive batching", bentoml, "bentoml", {"BENTOML_DO_NOT_TRACK": "True"}),
    Contender("ray", "Ray Serve, @serve.batch", script("rayserve"), "ray", RAY),
    Contender("one", "one worker on one core", ours(1), environment=QUIET, scaling=True),
    Contender("two", "two workers and the load on two", ours(2), environment=QUIET, cores=2, scaling=True),
    Contender("shipped-one", "one, its own checkpoint", ours(1), environment=QUIET, shipped=True, scaling=True),
    Contender("shipped-two", "two", ours(2), environment=QUIET, shipped=True, cores=2, scaling=True),
)
QUICK = ("noop", "ours", "shipped", "usual")


def version(contender: Contender) -> str | None:
    """Of the package that it needs, or None where that is not installed."""
    with suppress(metadata.PackageNotFoundError):
        return metadata.version(contender.package)
    return None


@dataclass
class Running:
    """A contender that answers, and its expected answers."""

    contender: Contender
    server: Server
    url: str
    expected: dict[bytes, str | None]  # the class of each picture; None: it answers {}
    text: str = ""  # part of every answer to the shoe

    def warm_up(self, cores: Sequence[int]) -> None:
        """Sends load until all answers are right, a few times. Raises LoadError."""
        for patience in reversed(range(WARM_UPS)):
            try:
                if self.contender.cores > 1:
                    self.server.calm_down()  # the first worker answers while the second is still loading
                self.check()
                self.press(WARM_UP_CONNECTIONS, 1, cores)
                time.sleep(WARM_UP_REST_SECONDS)  # else the last requests would wait, paused, for the first turn
                return
            except LoadError:
                if not patience:
                    raise
                time.sleep(1)  # it may still be loading, and does not report the end of it

    def press(self, connections: int, seconds: float, cores: Sequence[int]) -> Load:
        """Load from a core that the contender leaves free, or from its own if it takes two. Raises LoadError."""
        count = self.contender.cores
        shared = count > 1
        load_cores = cores[:count] if shared else cores[count:][-1:]
        return press(f"{self.url}/predict", form(SHOE), self.text, connections, seconds, load_cores, shared)

    def check(self) -> None:
        """Asks for each picture. Raises LoadError unless every answer is the right one."""
        for picture, name in self.expected.items():
            payload = form(picture)
            try:
                response = httpx.post(
                    f"{self.url}/predict",
                    content=payload.content,
                    headers={"Content-Type": payload.content_type},
                    timeout=TIMEOUT_SECONDS,
                )
            except httpx.TransportError as error:
                raise LoadError(f"no answer: {error}") from error
            if response.status_code != 200 or found_class(response.json()) != name:
                raise LoadError(f"{response.status_code} {response.text[:200]} instead of {name}")
            if picture == SHOE:
                self.text = response.text if name is None else class_text(response.text)


def found_class(answer: Any) -> str | None:
    [answer] = answer if isinstance(answer, list) else [answer]  # BentoML answers a batch of one
    name: str | None = answer.get("class")
    return name


def class_text(body: str) -> str:
    """The class as this body writes it, spaces included."""
    found = re.search(r'"class"\s*:\s*"[^"]+"', body)
    assert found, body
    return found.group()


@contextmanager
def running(
    contender: Contender, weights: Path, cores: Sequence[int], scratch: Path, ready: str = "/predict"
) -> Iterator[Running]:
    """The contender on the first of `cores`, up and paused. It is up once it answers `ready` with 200.

    Raises StartError; LoadError if it gives wrong answers after the warm-up.
    """
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    expected = answers(weights) if contender.answers else dict.fromkeys(pictures())
    environment = {
        WEIGHTS: str(weights),
        "CUDA_VISIBLE_DEVICES": "",
        "HOME": str(scratch),  # some peers leave files behind
        "TMPDIR": str(scratch),
        **contender.environment,
    }
    with (
        httpx.Client(timeout=TIMEOUT_SECONDS) as client,
        started(
            contender.command(port, weights),
            environment,
            cores[: contender.cores],
            lambda: is_ready(client, f"{url}{ready}"),
            ROOT,
            scratch / f"{contender.name}.log",
        ) as server,
    ):
        runner = Running(contender, server, url, expected)
        with server.turn():
            runner.warm_up(cores)
        yield runner


def is_ready(client: httpx.Client, url: str) -> bool:
    """Whether it answers 200, to the shoe where it is asked to predict."""
    payload = form(SHOE)
    try:
        if url.endswith("/health"):
            return client.get(url).status_code == 200
        headers = {"Content-Type": payload.content_type, "Connection": "close"}
        return client.post(url, content=payload.content, headers=headers).status_code == 200
    except httpx.TransportError:
        return False


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def pictures() -> tuple[bytes, bytes]:
    """The repository's shoe, and the same lying on its heel."""
    turned = io.BytesIO()
    Image.open(io.BytesIO(SHOE)).transpose(Image.Transpose.ROTATE_90).save(turned, "PNG")
    return SHOE, turned.getvalue()


def answers(weights: Path) -> dict[bytes, str | None]:
    """The class of each picture by the network at `weights`."""
    classifier = Classifier.load(weights, "cpu")
    return {picture: classifier.predict(read_pixels(picture)[None, None])[0]["class"] for picture in pictures()}


def train_net(path: Path) -> None:
    """Writes the bare state dict of a Net that gives the two pictures different classes."""
    torch.manual_seed(0)
    network = Net(sigmoid=False)  # without the sigmoid, which saturates in training; the weights are the same
    pixels = torch.from_numpy(np.stack([read_pixels(picture)[None] for picture in pictures()]))  # uint8 (2, 1, 28, 28)
    labels = torch.tensor([CLASSES.index(SHOE_CLASS), CLASSES.index(TURNED_CLASS)])
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    for _ in range(TRAINING_STEPS):
        optimizer.zero_grad()
        loss: Any = functional.cross_entropy(network(pixels), labels)
        loss.backward()
        optimizer.step()
    torch.save(network.state_dict(), path)
    assert list(answers(path).values()) == [SHOE_CLASS, TURNED_CLASS]
