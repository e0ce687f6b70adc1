"""Broken and hostile clients: each gets its answer, and the others are answered meanwhile."""

import re
import socket
import time
from contextlib import suppress

import httpx
import pytest
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.errors import BACKPRESSURE
from service.server.protocol import MAX_HEAD_BYTES, MAX_PIPELINED
from service.settings import Settings
from tests.service.conftest import running, serving
from tests.service.server.conftest import (
    CHUNKED,
    HEAD,
    LENGTH,
    PICTURE,
    SECONDS,
    dial,
    others_are_answered,
    read_all,
    refusal,
)

PAUSE_SECONDS = 1.0
ENDLESS = 100 * MAX_HEAD_BYTES


def test_a_refused_request_is_counted_and_logged_once(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "service.requests")
    origins = {"request_seconds": SECONDS, "cors_origins": ("http://shop.example",)}
    origin = b"Origin: http://shop.example\r\nX-Request-ID: mine\r\n"
    with serving(settings.model_copy(update=origins)) as client:
        for content, status, reason in [
            (b"POST /predict HTTP/1.1\r\n" + origin + b"Content-Le", 408, "request_timeout"),
            (HEAD + origin + LENGTH % 1000 + PICTURE, 408, "request_timeout"),
            (b"GET / HTTP/1.1\r\n" + origin + b"X: " + MAX_HEAD_BYTES * b"y", 431, "headers_too_large"),
            (HEAD + origin + CHUNKED + b"no size\r\n", 400, "invalid_http"),
        ]:
            caplog.clear()
            count = f'fashion_mnist_rejected_total{{reason="{reason}"}}'
            before = counted(client, count)
            with dial(client) as connection:
                connection.sendall(content)
                answer = read_all(connection)
            assert refusal(answer)[0] == status
            assert b"access-control-allow-origin: http://shop.example" in answer
            assert b"x-request-id: mine" in answer
            assert counted(client, count) == before + 1
            assert [record.getMessage().split()[-1] for record in caplog.records] == [str(status)]


def counted(client: httpx.Client, sample: str) -> float:
    values = dict(line.rsplit(" ", 1) for line in client.get("/metrics").text.splitlines() if line[:1] != "#")
    return float(values.get(sample, 0))


def test_an_answer_comes_in_one_piece(connection: socket.socket) -> None:
    for _ in range(50):
        connection.sendall(HEAD + LENGTH % len(PICTURE) + PICTURE)
        head, _, content = connection.recv(65_536).partition(b"\r\n\r\n")
        assert b"content-length: %d\r\n" % len(content) in head


def test_an_answer_without_a_body_comes_as_well(connection: socket.socket) -> None:
    for _ in range(2):  # the first keeps the connection
        connection.sendall(b"HEAD /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(65_536).startswith(b"HTTP/1.1 200")
    connection.sendall(b"HEAD /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert read_all(connection).startswith(b"HTTP/1.1 200")


def test_expect_100_continue_is_answered(connection: socket.socket) -> None:
    connection.sendall(HEAD + b"Expect: 100-continue\r\n" + LENGTH % len(PICTURE))
    assert connection.recv(65_536) == b"HTTP/1.1 100 Continue\r\n\r\n"
    connection.sendall(PICTURE)
    assert connection.recv(65_536).startswith(b"HTTP/1.1 200")


def test_an_early_answer_is_the_only_one(connection: socket.socket) -> None:
    connection.sendall(HEAD + LENGTH % 10**9 + b"too much is announced, and so it is answered before it has come")
    assert re.findall(rb"HTTP/1.1 (\d+)", read_all(connection)) == [b"413"]


@pytest.mark.parametrize("beginning", [b"GET / HTTP/1.1\r\n", HEAD + CHUNKED + b"0\r\n"], ids=["headers", "trailers"])
@pytest.mark.parametrize("line", [b"x: " + b"y" * 1000 + b"\r\n", b"y" * 1000], ids=["many", "one"])
def test_endless_headers_end(connection: socket.socket, beginning: bytes, line: bytes) -> None:
    sent = 0
    try:
        connection.sendall(beginning + b"x: ")
        while sent < ENDLESS:
            connection.sendall(65 * line)
            sent += 65 * len(line)
    except ConnectionError:
        pass
    assert sent < ENDLESS


def test_headers_just_over_the_limit_are_refused(connection: socket.socket, strict_client: httpx.Client) -> None:
    connection.sendall(b"GET / HTTP/1.1\r\n")
    assert others_are_answered(strict_client)  # and the first line has been read
    connection.sendall(b"x: " + b"y" * MAX_HEAD_BYTES)
    assert refusal(read_all(connection)) == (431, "The headers have over 65,536 bytes, the limit; send fewer.")


@pytest.mark.parametrize("end", [b"\r\n\r\n", b"\r\nContent-Length: 3\r\n\r\nabc", b""])
@pytest.mark.parametrize("bytes_", [MAX_HEAD_BYTES, 100_000, 10**6])
def test_headers_over_the_limit_in_one_packet_are_refused(connection: socket.socket, bytes_: int, end: bytes) -> None:
    with suppress(ConnectionError):
        connection.sendall(b"GET / HTTP/1.1\r\nX: " + bytes_ * b"y" + end)
    assert refusal(read_all(connection))[0] == 431


def test_a_client_that_leaves_half_way_ends_its_connection(connection: socket.socket) -> None:
    connection.sendall(HEAD + LENGTH % 1000 + PICTURE)
    connection.shutdown(socket.SHUT_WR)
    assert read_all(connection) == b""


def test_a_body_longer_than_its_content_length_is_refused(connection: socket.socket) -> None:
    connection.sendall(HEAD + LENGTH % 100 + PICTURE)
    first, _, second = read_all(connection).partition(b"HTTP/1.1 400")[2].partition(b"HTTP/1.1 400")
    assert b"PNG picture" in first
    assert b"The request is not valid HTTP/1.1; send it with an HTTP client, and not with TLS." in second


def test_a_malformed_request_behind_a_good_one_does_not_take_its_answer(connection: socket.socket) -> None:
    connection.sendall(HEAD + LENGTH % len(PICTURE) + PICTURE + b"garbage\r\n\r\n")
    assert re.findall(rb"HTTP/1.1 (\d+)", read_all(connection)) == [b"200", b"400"]


def test_too_many_pipelined_requests_end_the_connection(connection: socket.socket) -> None:
    request = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
    connection.sendall((1 + MAX_PIPELINED) * request)
    answers = b""
    while answers.count(b'"alive"') <= MAX_PIPELINED:
        answers += connection.recv(65_536)
    assert answers.count(b"HTTP/1.1 200") == 1 + MAX_PIPELINED
    connection.sendall(1000 * request)
    answer = read_all(connection)
    assert answer.count(b"HTTP/1.1 200") <= 1 + MAX_PIPELINED
    assert b"Over 8 requests wait on this connection; read the answers first." in answer


def test_a_client_refused_for_overload_is_not_read_until_retry_after_is_over() -> None:
    seen: list[dict[str, object]] = []

    async def refuse_once(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            backpressure = scope["extensions"][BACKPRESSURE]
            seen.append(dict(backpressure))
            if len(seen) == 1:
                backpressure["pause_seconds"] = PAUSE_SECONDS
            await Response(status_code=503 if len(seen) == 1 else 200)(scope, receive, send)

    with running(refuse_once, Settings(request_seconds=60)) as client:
        assert client.get("/").status_code == 503
        begin = time.monotonic()
        assert client.get("/").status_code == 200
        assert time.monotonic() - begin > 0.9 * PAUSE_SECONDS
        assert client.get("/").status_code == 200
    assert seen[:2] == [{}, {"early_retry": True}]
