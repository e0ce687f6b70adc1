"""Connections to a server with short deadlines."""

import json
import socket
from collections.abc import Iterator

import httpx
import pytest

from service.settings import Settings
from tests.service.conftest import DEADLINE_SECONDS, SHOE, serving

SECONDS = 0.5  # SERVICE_REQUEST_SECONDS
PICTURE = SHOE.read_bytes()
HEAD = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
LENGTH = b"Content-Length: %d\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module")
def strict_client(settings: Settings) -> Iterator[httpx.Client]:
    with serving(settings.model_copy(update={"request_seconds": SECONDS})) as client:
        yield client


@pytest.fixture
def connection(strict_client: httpx.Client) -> Iterator[socket.socket]:
    with dial(strict_client) as connection:
        yield connection
    assert others_are_answered(strict_client)


def dial(client: httpx.Client) -> socket.socket:
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # so that a client that does not read blocks soon
    connection.settimeout(DEADLINE_SECONDS)
    connection.connect(("127.0.0.1", client.base_url.port))
    return connection


def others_are_answered(client: httpx.Client) -> bool:
    return client.post("/predict", files={"file": PICTURE}).status_code == 200


def read_all(connection: socket.socket) -> bytes:
    """All bytes until the server ends the connection."""
    return b"".join(iter(lambda: connection.recv(65_536), b""))


def refusal(answer: bytes) -> tuple[int, str]:
    """Status and sentence of the one answer in these bytes."""
    head, content = answer.split(b"\r\n\r\n")
    assert b"connection: close" in head
    assert b"x-content-type-options: nosniff" in head
    assert b"x-request-id: " in head
    return int(head.split()[1]), json.loads(content)["detail"]
