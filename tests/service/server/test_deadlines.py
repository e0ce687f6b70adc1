"""Slow (slowloris) and idle clients: each ends at a deadline, and the others are answered meanwhile."""

import re
import select
import socket
import time

import httpx
import pytest

from service.settings import Settings
from tests.service.conftest import DEADLINE_SECONDS, poll, serving
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

IDLE = 200  # connections
LARGE_ANSWERS = 6  # of a megabyte


def send_slowly(connection: socket.socket, byte: bytes) -> bytes:
    """Sends this byte again and again until the server answers; returns the answer."""
    for _ in poll():
        if select.select([connection], [], [], 0)[0]:
            break
        connection.send(byte)
    return read_all(connection)


@pytest.mark.parametrize(
    ("beginning", "byte", "words"),
    [
        (
            b"POST /predict HTTP/1.1\r\nX: ",
            b"y",
            "The headers were not complete within 0.5 s; send them without a pause.",
        ),
        (HEAD + LENGTH % 10**5, b"y", "the minimum is 16,384 bytes/s over 0.5 s; send a smaller picture."),
        (HEAD + CHUNKED, b"0", "the minimum is 16,384 bytes/s over 0.5 s; send a smaller picture."),
    ],
    ids=["headers", "body", "size of a chunk"],
)
def test_a_slow_client_ends_at_the_deadline(
    connection: socket.socket, beginning: bytes, byte: bytes, words: str
) -> None:
    begin = time.monotonic()
    connection.sendall(beginning)
    status, sentence = refusal(send_slowly(connection, byte))
    assert SECONDS <= time.monotonic() - begin < 10 * SECONDS
    assert status == 408
    assert sentence.endswith(words)


@pytest.mark.parametrize("beginning", [b"POST /pre", HEAD + LENGTH % 1000 + PICTURE, HEAD + CHUNKED + b"5\r\nshort"])
def test_a_client_that_stops_ends_at_the_deadline(
    connection: socket.socket, strict_client: httpx.Client, beginning: bytes
) -> None:
    connection.sendall(beginning)
    assert others_are_answered(strict_client)
    assert refusal(read_all(connection))[0] == 408


@pytest.mark.parametrize("content", [b"", b"\r\n"])
def test_a_client_that_asks_nothing_gets_no_answer(connection: socket.socket, content: bytes) -> None:
    connection.sendall(content)
    begin = time.monotonic()
    assert read_all(connection) == b""
    assert time.monotonic() - begin >= 0.5 * SECONDS


def test_a_slow_upload_above_the_minimum_rate_arrives(connection: socket.socket) -> None:
    """1 Mbit/s, for four times as long as the headers may take."""
    picture = PICTURE + bytes(180_000)  # what follows a PNG's end is not read
    piece, begin = 6_250, time.monotonic()
    connection.sendall(HEAD + LENGTH % len(picture))
    for number, _ in zip(range(0, len(picture), piece), poll(), strict=False):
        time.sleep(max(0.0, begin + number / 125_000 - time.monotonic()))
        connection.sendall(picture[number : number + piece])
    assert connection.recv(65_536).startswith(b"HTTP/1.1 200")
    assert time.monotonic() - begin > 2 * SECONDS


def test_the_idle_time_is_announced_and_a_request_at_its_end_is_answered(settings: Settings) -> None:
    whole = HEAD + LENGTH % len(PICTURE) + PICTURE
    with serving(settings.model_copy(update={"keep_alive_seconds": 1})) as client, dial(client) as connection:
        for _ in range(2):
            connection.sendall(whole)
            assert b"\r\nkeep-alive: timeout=1\r\n" in connection.recv(65_536)
            time.sleep(1.1)  # and over a link of 0.1 s
        begin = time.monotonic()
        assert read_all(connection) == b""
        assert time.monotonic() - begin < 10


def test_an_answer_that_ends_the_connection_announces_no_idle_time(connection: socket.socket) -> None:
    connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    answer = read_all(connection)
    assert answer.count(b"\r\nconnection: close") == 1
    assert b"keep-alive" not in answer


def test_a_second_request_has_its_own_deadline(connection: socket.socket) -> None:
    whole = HEAD + LENGTH % len(PICTURE) + PICTURE
    for _ in range(2):
        connection.sendall(whole)
        assert connection.recv(65_536).startswith(b"HTTP/1.1 200")
    connection.sendall(whole[:-1])
    assert refusal(read_all(connection))[0] == 408


@pytest.fixture(scope="module")
def large_answers(strict_client: httpx.Client) -> bytes:
    """A request for more than the kernel takes at once."""
    [script] = re.findall(r'src="([^"]+bundle[^"]+)"', strict_client.get("/docs").text)
    request = b"GET /%s HTTP/1.1\r\nHost: x\r\n" % script.encode()
    return LARGE_ANSWERS * (request + b"\r\n") + request + b"Connection: close\r\n\r\n"


def test_a_client_that_does_not_read_its_answer_is_cut_off(
    connection: socket.socket, strict_client: httpx.Client, large_answers: bytes
) -> None:
    poller = select.poll()
    poller.register(connection, 0)  # errors and the end of the connection are always reported
    begin = time.monotonic()
    connection.sendall(large_answers)
    assert others_are_answered(strict_client)
    assert poller.poll(1000 * DEADLINE_SECONDS)
    assert SECONDS <= time.monotonic() - begin < 10 * SECONDS


def test_a_client_that_reads_late_gets_its_answer(connection: socket.socket, large_answers: bytes) -> None:
    connection.sendall(large_answers)
    begin = time.monotonic()
    for _ in poll():
        if time.monotonic() - begin > 0.8 * SECONDS:
            break
    assert len(read_all(connection)) > LARGE_ANSWERS * 10**6


def test_idle_connections_end_at_the_deadline_and_others_are_answered(strict_client: httpx.Client) -> None:
    connections = [dial(strict_client) for _ in range(IDLE)]
    assert others_are_answered(strict_client)
    for connection in connections:
        with connection:
            assert read_all(connection) == b""


def test_a_request_that_begins_before_an_answer_is_not_cut_off(settings: Settings) -> None:
    """The idle time does not run while a request arrives, however it came in packets."""
    first = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n" + HEAD[:20]
    with serving(settings.model_copy(update={"keep_alive_seconds": 1})) as client, dial(client) as connection:
        connection.sendall(first)
        assert connection.recv(65_536).startswith(b"HTTP/1.1 200")
        time.sleep(3.5)
        connection.sendall(HEAD[20:] + LENGTH % len(PICTURE) + PICTURE)
        assert connection.recv(65_536).startswith(b"HTTP/1.1 200")


def test_answers_have_a_date_and_one_connection_header(connection: socket.socket) -> None:
    connection.sendall(HEAD + CHUNKED)
    connection.sendall(b"GET /health/live")  # no size of a chunk
    head = read_all(connection).partition(b"\r\n\r\n")[0].lower()
    assert head.count(b"\r\nconnection:") == 1
    assert head.count(b"\r\ndate:") == 1
