"""Graceful shutdown, replaced workers and hot reload: real processes under load."""

import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from tests.service.conftest import DEADLINE_SECONDS, SHOE, Service, launched, poll, started, workers_of

PICTURE = SHOE.read_bytes()
CLIENTS = 4
CHECKED_SECONDS = 0.7  # the supervisor checks its workers for the first time after 0.5
UPLOAD = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: %d\r\n\r\n" % len(PICTURE)


def is_closed(client: httpx.Client) -> bool:
    try:
        socket.create_connection(("127.0.0.1", client.base_url.port or 0)).close()
    except ConnectionError:
        return True
    return False


def predict(client: httpx.Client) -> httpx.Response:
    return client.post("/predict", files={"file": PICTURE})


class Load:
    """Clients that send one request after another, and the answers they got."""

    def __init__(self) -> None:
        self.answers: list[httpx.Response] = []
        self.errors: list[httpx.TransportError] = []
        self.over = threading.Event()

    def request(self, base_url: httpx.URL) -> None:
        with httpx.Client(base_url=base_url, timeout=DEADLINE_SECONDS) as client:
            while not self.over.is_set():
                try:
                    self.answers.append(predict(client))
                except httpx.TransportError as error:
                    self.errors.append(error)

    def latest(self) -> dict[str, str]:
        """The model of the latest answer of each process. Its request ids begin with the same 8 digits."""
        return {
            answer.headers["x-request-id"].partition("-")[0]: answer.json()["model"] for answer in list(self.answers)
        }

    def without_failure(self) -> bool:
        return not self.errors and {answer.status_code for answer in self.answers} == {200}


@contextmanager
def loaded(client: httpx.Client) -> Iterator[Load]:
    load = Load()
    with ThreadPoolExecutor(CLIENTS) as pool:
        try:
            for _ in range(CLIENTS):
                pool.submit(load.request, client.base_url)
            for _ in poll():
                if len(load.answers) > 10 * CLIENTS:
                    break
            yield load
        finally:
            load.over.set()


def unfinished_upload(client: httpx.Client) -> socket.socket:
    """A connection whose upload lacks its last byte."""
    connection = socket.create_connection(("127.0.0.1", client.base_url.port or 0), DEADLINE_SECONDS)
    connection.sendall(UPLOAD + PICTURE[:-1])
    return connection


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_drain_fails_no_request(tiny_checkpoint: Path, workers: str) -> None:
    flags = ("--model", str(tiny_checkpoint), "--workers", workers)
    with started(*flags, SERVICE_DRAIN_SECONDS="1") as (process, client), loaded(client) as load:
        uploads = [unfinished_upload(client) for _ in range(8)]
        process.send_signal(signal.SIGTERM)
        begin = time.monotonic()
        for _ in poll():
            if client.get("/health").status_code == 503:
                break
        assert time.monotonic() - begin < 3
        answer = predict(client)
        assert answer.status_code == 200
        assert answer.headers["connection"] == "close"
        load.over.set()
        for _ in poll():
            if is_closed(client):
                break
        assert time.monotonic() - begin > 0.9
        for upload in uploads:
            with upload:
                upload.sendall(PICTURE[-1:])
                assert re.match(rb"HTTP/1.1 200 (.*\r\n)*connection: close\r\n", upload.recv(65_536))
        assert process.wait(DEADLINE_SECONDS) == 0
    assert load.without_failure()


@pytest.mark.parametrize(("workers", "second"), [("1", signal.SIGTERM), ("1", signal.SIGINT), ("2", signal.SIGTERM)])
def test_a_second_signal_stops_at_once(tiny_checkpoint: Path, workers: str, second: signal.Signals) -> None:
    flags = ("--model", str(tiny_checkpoint), "--workers", workers)
    environment = {"SERVICE_DRAIN_SECONDS": "600", "SERVICE_REQUEST_SECONDS": "600"}
    with started(*flags, **environment) as (process, client), unfinished_upload(client):
        process.send_signal(signal.SIGTERM)
        for _ in poll():
            if client.get("/health").status_code == 503:
                break
        process.send_signal(second)
        begin = time.monotonic()
        assert process.wait(DEADLINE_SECONDS) == (130 if second == signal.SIGINT else 0)
        assert time.monotonic() - begin < 30  # the drain and the request would take 600 s


def test_it_stops_while_its_workers_start(tiny_checkpoint: Path) -> None:
    with launched("--model", str(tiny_checkpoint), "--workers", "2") as (process, _):
        for _ in poll():
            if len(workers_of(process)) == 2:
                break
        with suppress(subprocess.TimeoutExpired):
            process.wait(CHECKED_SECONDS)
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_SECONDS) == 0


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    return Path(shutil.copy(tiny_checkpoint, tmp_path_factory.mktemp("served") / "model.pt"))


@pytest.fixture(scope="module")
def pair(model: Path) -> Iterator[tuple[Service, httpx.Client]]:
    with started("--model", str(model), "--workers", "2", SERVICE_DRAIN_SECONDS="0") as (process, client):
        yield process, client


def fresh_answer(base_url: httpx.URL) -> httpx.Response:
    """The answer on a new connection, which any worker may accept."""
    with httpx.Client(base_url=base_url, timeout=DEADLINE_SECONDS) as client:
        return predict(client)


def test_hot_reload_reaches_every_worker_and_a_broken_checkpoint_none(
    pair: tuple[Service, httpx.Client], model: Path, tutorial_state_dict: Path
) -> None:
    _, client = pair
    seen: dict[str, str] = {}

    def ask() -> None:
        answer = fresh_answer(client.base_url)
        assert answer.status_code == 200
        seen[answer.headers["x-request-id"].partition("-")[0]] = answer.json()["model"]

    with loaded(client) as load:
        for _ in poll():
            ask()
            if len(seen) == 2:
                break
        shutil.copy(tutorial_state_dict, model)
        for _ in poll():
            ask()
            if all(name.startswith("tutorial-") for name in seen.values()):
                break
        good = set(seen.values())
        model.write_bytes(tutorial_state_dict.read_bytes()[:-1000])
        for _ in poll():
            if "refused" in client.get("/health").json():
                break
        ask()
        assert set(seen.values()) == good
        assert client.get("/health").json()["refused"].startswith("model.pt ")
        [refusals] = re.findall(
            r"^fashion_mnist_model_refusals_total ([\d.]+)", client.get("/metrics").text, re.MULTILINE
        )
        assert float(refusals) >= 1
        shutil.copy(tutorial_state_dict, model)
    assert load.without_failure()


def test_a_worker_that_dies_is_replaced_and_the_other_answers(pair: tuple[Service, httpx.Client]) -> None:
    process, client = pair
    killed, other = workers_of(process)
    os.kill(killed, signal.SIGKILL)
    seen: set[str] = set()
    for _ in poll():
        answer = fresh_answer(client.base_url)
        assert answer.status_code == 200
        seen.add(answer.headers["x-request-id"].partition("-")[0])
        if len(seen) == 2:
            break
    assert other in workers_of(process)
    assert killed not in workers_of(process)


def test_the_workers_end_with_their_supervisor(pair: tuple[Service, httpx.Client]) -> None:
    process, client = pair
    process.kill()
    for _ in poll():
        if is_closed(client):
            break
