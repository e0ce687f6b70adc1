"""The contenders: how each server is started, warmed up, loaded and checked.

All serve the tutorial's Net from one bare state dict, except this service where it serves the shipped checkpoint.
"""

import io
import re
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

from benchmarks.load import LoadError, LoadResult, generate_load, multipart_form
from benchmarks.peers.tutorial import WEIGHTS
from benchmarks.processes import Server, free_port, start_server
from classifier.classifier import Classifier
from classifier.networks import CLASSES, Net
from classifier.preprocessing import prepare

ROOT = Path(__file__).parents[1]
SHIPPED = ROOT / "models/model_scratch.pt"
SHOE = (ROOT / "shoe.png").read_bytes()
SHOE_CLASS, ROTATED_CLASS = "Ankle boot", "Bag"  # the labels that the benchmark's Net is trained on
TRAIN_STEPS, LEARNING_RATE = 60, 1e-3
TIMEOUT_SECONDS = 30.0
WARMUP_ATTEMPTS, WARMUP_CONNECTIONS, WARMUP_REST_SECONDS = 10, 128, 2

Command = Callable[[int, Path], list[str]]  # of a port and the file of weights


@dataclass(frozen=True)
class Contender:
    name: str
    description: str
    command: Command
    package: str = "fastapi"  # the package that it needs
    environment: dict[str, str] = field(default_factory=dict)
    shipped: bool = False  # serves the shipped checkpoint instead of the tutorial's Net
    predicts: bool = True  # False: it answers {}
    cores: int = 1
    scaling: bool = False  # takes part only in the comparison of one worker with two


def ours(name: str, description: str, cores: int = 1, shipped: bool = False, scaling: bool = False) -> Contender:
    """This service with a worker on each of `cores`; without access log and metrics, as the other contenders."""
    environment = {"SERVICE_ACCESS_LOG": "0", "SERVICE_METRICS": "0"}

    def command(port: int, weights: Path) -> list[str]:
        service = [sys.executable, "-m", "service", "--port", str(port)]
        return [*service, "--model", str(weights), "--workers", str(cores)]

    return Contender(name, description, command, environment=environment, cores=cores, shipped=shipped, scaling=scaling)


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


RAY = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # despite its name: limits the cluster to this machine, on 127.0.0.1
}
RAY_HAPROXY = {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"}  # as Ray's own guide advises
CONTENDERS = (
    Contender("noop", "FastAPI upload endpoint that does nothing", uvicorn("noop"), predicts=False),
    ours("ours", "this service"),
    ours("shipped", "this service, shipped checkpoint", shipped=True),
    Contender("usual", "FastAPI + Pillow + torchvision + torch", uvicorn("usual"), "torchvision"),
    Contender("litserve", "LitServe, dynamic batching", script("lit"), "litserve"),
    Contender("bentoml", "BentoML, adaptive batching", bentoml, "bentoml", {"BENTOML_DO_NOT_TRACK": "True"}),
    Contender("ray", "Ray Serve, @serve.batch", script("rayserve"), "ray", RAY),
    Contender("ray-haproxy", "the same behind HAProxy", script("rayserve"), "ray", RAY | RAY_HAPROXY),
    ours("one", "one worker on one core", scaling=True),
    ours("two", "two workers on two cores", cores=2, scaling=True),
    ours("shipped-one", "one worker, shipped checkpoint", shipped=True, scaling=True),
    ours("shipped-two", "two workers, shipped checkpoint", cores=2, shipped=True, scaling=True),
)
QUICK = ("noop", "ours", "shipped", "usual")


def version(contender: Contender) -> str | None:  # of the package that it needs; None if that is not installed
    with suppress(metadata.PackageNotFoundError):
        return metadata.version(contender.package)
    return None


@dataclass
class RunningContender:
    """A contender that has started, and the answers that are expected of it."""

    contender: Contender
    server: Server
    url: str
    expected: dict[bytes, str | None]  # picture -> class; None: the answer is {}
    text: str = ""  # part of every answer to the shoe

    def warm_up(self, cores: Sequence[int]) -> None:
        """Checks it and loads it for a second, until no answer is wrong. Raises LoadError after WARMUP_ATTEMPTS."""
        for attempts_left in reversed(range(WARMUP_ATTEMPTS)):
            try:
                if self.contender.cores > 1:
                    self.server.wait_until_idle()  # the first worker answers while the second still loads
                self.check()
                self.generate_load(WARMUP_CONNECTIONS, 1, cores)
                time.sleep(WARMUP_REST_SECONDS)  # finish what wrk left unread, else the first measurement pays for it
                return
            except LoadError:
                if not attempts_left:
                    raise
                time.sleep(1)  # it may still be loading; no peer reports when it has finished

    def generate_load(self, connections: int, seconds: float, cores: Sequence[int]) -> LoadResult:
        """Posts the shoe, from a core that the contender leaves free, or from its own cores if it has two.

        Raises LoadError.
        """
        count = self.contender.cores
        shared = count > 1
        load_cores = cores[:count] if shared else cores[count:][-1:]
        url, payload = f"{self.url}/predict", multipart_form(SHOE)
        return generate_load(url, payload, self.text, connections, seconds, load_cores, shared)

    def check(self) -> None:
        """Posts each picture once. Raises LoadError if an answer is wrong or missing."""
        for picture, name in self.expected.items():
            payload = multipart_form(picture)
            try:
                response = httpx.post(
                    f"{self.url}/predict",
                    content=payload.content,
                    headers={"Content-Type": payload.content_type},
                    timeout=TIMEOUT_SECONDS,
                )
            except httpx.TransportError as error:
                raise LoadError(f"no answer: {error}") from error
            if response.status_code != 200 or predicted_class(response.json()) != name:
                raise LoadError(f"{response.status_code} {response.text[:200]} instead of {name}")
            if picture == SHOE:
                self.text = response.text if name is None else class_text(response.text)


def predicted_class(answer: Any) -> str | None:
    [answer] = answer if isinstance(answer, list) else [answer]  # BentoML answers a batch of one
    name: str | None = answer.get("class")
    return name


def class_text(body: str) -> str:
    """The class as this JSON text writes it, spaces included."""
    match = re.search(r'"class"\s*:\s*"[^"]+"', body)
    assert match, body
    return match.group()


@contextmanager
def start_contender(
    contender: Contender, weights: Path, cores: Sequence[int], scratch: Path, ready: str = "/predict"
) -> Iterator[RunningContender]:
    """Starts the contender on the first of `cores`, waits until `ready` answers 200, warms it up and pauses it.

    Raises StartError; LoadError if it answers wrongly after its warm-up.
    """
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    expected = expected_classes(weights) if contender.predicts else dict.fromkeys(pictures())
    environment = {
        WEIGHTS: str(weights),
        "CUDA_VISIBLE_DEVICES": "",
        "HOME": str(scratch),  # some peers leave files behind
        "TMPDIR": str(scratch),
        **contender.environment,
    }
    with (
        httpx.Client(timeout=TIMEOUT_SECONDS) as client,
        start_server(
            contender.command(port, weights),
            environment,
            cores[: contender.cores],
            lambda: is_ready(client, f"{url}{ready}"),
            ROOT,
            scratch / f"{contender.name}.log",
        ) as server,
    ):
        runner = RunningContender(contender, server, url, expected)
        with server.resumed():
            runner.warm_up(cores)
        yield runner


def is_ready(client: httpx.Client, url: str) -> bool:
    """Whether GET /health, or POST of the shoe to another path, answers 200."""
    payload = multipart_form(SHOE)
    try:
        if url.endswith("/health"):
            return client.get(url).status_code == 200
        headers = {"Content-Type": payload.content_type, "Connection": "close"}
        return client.post(url, content=payload.content, headers=headers).status_code == 200
    except httpx.TransportError:
        return False


def pictures() -> tuple[bytes, bytes]:
    """The repository's shoe, and the same rotated by 90 degrees."""
    rotated = io.BytesIO()
    Image.open(io.BytesIO(SHOE)).transpose(Image.Transpose.ROTATE_90).save(rotated, "PNG")
    return SHOE, rotated.getvalue()


def expected_classes(weights: Path) -> dict[bytes, str | None]:
    """The class of each picture, predicted with these weights."""
    classifier = Classifier.load(weights, "cpu")
    return {picture: classifier.predict(prepare(picture).pixels[None])[0]["class"] for picture in pictures()}


def train_tutorial_net(path: Path) -> None:
    """Writes the bare state dict of a Net that predicts a different class for each of the two pictures."""
    torch.manual_seed(0)
    network = Net(sigmoid=False)  # without the sigmoid, which saturates in training; the weights are the same
    pixels = torch.from_numpy(np.stack([prepare(picture).pixels for picture in pictures()]))  # uint8 (2, 1, 28, 28)
    labels = torch.tensor([CLASSES.index(SHOE_CLASS), CLASSES.index(ROTATED_CLASS)])
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    for _ in range(TRAIN_STEPS):
        optimizer.zero_grad()
        loss: Any = functional.cross_entropy(network(pixels), labels)
        loss.backward()
        optimizer.step()
    torch.save(network.state_dict(), path)
    assert list(expected_classes(path).values()) == [SHOE_CLASS, ROTATED_CLASS]
