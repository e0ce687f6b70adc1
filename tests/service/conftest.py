"""A real server, in a thread or in a process of its own, spoken to over a real socket."""

import io
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from PIL import Image
from starlette.types import ASGIApp

from service.app import create_app
from service.server.protocol import DeadlineProtocol
from service.settings import Settings

SHOE = Path(__file__).parents[2] / "shoe.png"
DEADLINE_SECONDS = 20.0
POLL_SECONDS = 0.02

Service = subprocess.Popen[str]


def poll(seconds: float = DEADLINE_SECONDS) -> Iterator[None]:
    """Ticks until the deadline, then fails."""
    pause = threading.Event()
    for _ in range(round(seconds / POLL_SECONDS)):
        yield
        pause.wait(POLL_SECONDS)
    pytest.fail(f"nothing happened within {seconds} s")


@contextmanager
def serving(settings: Settings) -> Iterator[httpx.Client]:
    """A client of a server with these settings, once it has tried to load its model."""
    with running(create_app(settings), settings) as client:
        for _ in poll():
            if "being loaded" not in client.get("/health").text:
                break
        yield client


@contextmanager
def running(app: ASGIApp, settings: Settings) -> Iterator[httpx.Client]:
    """A client of a server with our protocol and this app."""
    protocol: Any = partial(DeadlineProtocol, settings=settings)
    server = uvicorn.Server(uvicorn.Config(app, port=0, http=protocol, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        for _ in poll():
            if server.started:
                break
        port = server.servers[0].sockets[0].getsockname()[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=DEADLINE_SECONDS) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


@contextmanager
def launched(*flags: str, **environment: str) -> Iterator[tuple[Service, httpx.Client]]:
    """`python -m service` with these flags and variables, and a client of it, as soon as it runs."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "service", "--port", str(port), *flags],
        env={**os.environ, **environment},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=DEADLINE_SECONDS) as client:
            yield process, client
    finally:
        process.kill()
        process.communicate()


@contextmanager
def started(*flags: str, **environment: str) -> Iterator[tuple[Service, httpx.Client]]:
    """The same once it listens."""
    with launched(*flags, **environment) as (process, client):
        for _ in poll(60):
            assert process.poll() is None
            try:
                if "being loaded" not in client.get("/health").text:
                    break
            except httpx.TransportError:
                continue
        yield process, client


def workers_of(supervisor: Service) -> set[int]:
    """The processes that serve under it, without the one that tracks resources."""
    children = map(int, Path(f"/proc/{supervisor.pid}/task/{supervisor.pid}/children").read_text().split())
    return {pid for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()}


@pytest.fixture(scope="session", autouse=True)
def no_photo_network() -> Iterator[None]:
    """The shipped photo network would take part in every test that starts a service."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SERVICE_PHOTO_MODEL", "")
        yield


@pytest.fixture(scope="session")
def settings(tiny_checkpoint: Path) -> Settings:
    return Settings(model=tiny_checkpoint, max_upload_bytes=200_000, max_pixels=90_000, max_jpeg_pixels=160_000)


@pytest.fixture(scope="session")
def client(settings: Settings) -> Iterator[httpx.Client]:
    with serving(settings) as client:
        yield client


def encoded(picture: Image.Image, format: str = "PNG", **options: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()
