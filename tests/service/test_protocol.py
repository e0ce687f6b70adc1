"""Clients that are slow, broken or rude: none keeps the others waiting, and each ends at a deadline."""

import json
import re
import select
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, repeat

import httpx
import pytest
from PIL import Image

from service.batcher import FULL_SECONDS
from service.protocol import MAX_AHEAD, MAX_HEAD_BYTES, RETRY_AFTER_SECONDS
from service.settings import Settings
from tests.service.conftest import DEADLINE_SECONDS, SHOE, encoded, poll, serving

SECONDS = 0.5  # that a client has
PICTURE = SHOE.read_bytes()
HEAD = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
LENGTH = b"Content-Length: %d\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
ENDLESS = 100 * MAX_HEAD_BYTES
IDLE = 200  # connections
LARGE_ANSWERS = 6  # of a megabyte


@pytest.fixture(scope="module")
def impatient(settings: Settings) -> Iterator[httpx.Client]:
    with serving(settings.model_copy(update={"request_seconds": SECONDS})) as client:
        yield client


@pytest.fixture
def connection(impatient: httpx.Client) -> Iterator[socket.socket]:
    with dial(impatient) as connection:
        yield connection
    assert others_are_answered(impatient)


def dial(client: httpx.Client) -> socket.socket:
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # of a client that soon lets others wait
    connection.settimeout(DEADLINE_SECONDS)
    connection.connect(("127.0.0.1", client.base_url.port))
    return connection


def others_are_answered(client: httpx.Client) -> bool:
    return client.post("/predict", files={"file": PICTURE}).status_code == 200


def everything(connection: socket.socket) -> bytes:
    """What the server says until it ends the connection."""
    return b"".join(iter(lambda: connection.recv(65_536), b""))


def refusal(said: bytes) -> tuple[int, str]:
    """Status and sentence of the one answer in what a server said."""
    head, content = said.split(b"\r\n\r\n")
    assert b"connection: close" in head
    assert b"x-content-type-options: nosniff" in head
    return int(head.split()[1]), json.loads(content)["detail"]


def trickle(connection: socket.socket, content: Iterable[int]) -> bytes:
    """Sends a byte now and then until the server answers; what it says."""
    for byte, _ in zip(content, poll(), strict=False):
        if select.select([connection], [], [], 0)[0]:
            return everything(connection)
        connection.send(bytes([byte]))
    pytest.fail("the bytes ran out")


@pytest.mark.parametrize(
    "content",
    [
        chain(b"POST /predict HTTP/1.1\r\nX: ", repeat(ord("y"))),
        chain(HEAD + LENGTH % 10**6, repeat(0)),
        repeat(ord("\n")),
    ],
    ids=["headers", "body", "empty lines"],
)
def test_a_byte_at_a_time_ends_at_the_deadline(
    connection: socket.socket, impatient: httpx.Client, content: Iterable[int]
) -> None:
    begin = time.monotonic()
    said = trickle(connection, content)
    assert SECONDS <= time.monotonic() - begin < 10 * SECONDS
    assert refusal(said) == (408, "The request was not complete within 0.5 s.")


@pytest.mark.parametrize("begun", [b"", b"POST /pre", HEAD + LENGTH % 1000 + PICTURE, HEAD + CHUNKED + b"5\r\nshort"])
def test_silence_ends_at_the_deadline(connection: socket.socket, impatient: httpx.Client, begun: bytes) -> None:
    connection.sendall(begun)
    assert others_are_answered(impatient)
    assert refusal(everything(connection))[0] == 408


def test_a_second_request_has_its_own_deadline(connection: socket.socket) -> None:
    whole = HEAD + LENGTH % len(PICTURE) + PICTURE
    for _ in range(2):
        connection.sendall(whole)
        assert connection.recv(65_536).startswith(b"HTTP/1.1 200")
    connection.sendall(whole[:-1])
    assert refusal(everything(connection))[0] == 408


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
    assert everything(connection).startswith(b"HTTP/1.1 200")


def test_a_client_that_asks_before_it_sends_is_told_to_go_on(connection: socket.socket) -> None:
    connection.sendall(HEAD + b"Expect: 100-continue\r\n" + LENGTH % len(PICTURE))
    assert connection.recv(65_536) == b"HTTP/1.1 100 Continue\r\n\r\n"
    connection.sendall(PICTURE)
    assert connection.recv(65_536).startswith(b"HTTP/1.1 200")


def test_what_follows_an_answer_is_no_second_answer(connection: socket.socket) -> None:
    connection.sendall(HEAD + LENGTH % 10**9 + b"too much is announced, and so it is answered before it has come")
    assert re.findall(rb"HTTP/1.1 (\d+)", everything(connection)) == [b"413"]


@pytest.mark.parametrize(
    "begun",
    [b"GET / HTTP/1.1\r\n", HEAD + CHUNKED + b"0\r\n"],
    ids=["headers", "trailers"],
)
@pytest.mark.parametrize("line", [b"x: " + b"y" * 1000 + b"\r\n", b"y" * 1000], ids=["many", "one"])
def test_endless_headers_end(connection: socket.socket, begun: bytes, line: bytes) -> None:
    sent = 0
    try:
        connection.sendall(begun + b"x: ")
        while sent < ENDLESS:
            connection.sendall(65 * line)
            sent += 65 * len(line)
    except ConnectionError:
        pass
    assert sent < ENDLESS


def test_headers_just_over_the_limit_are_told_so(connection: socket.socket, impatient: httpx.Client) -> None:
    connection.sendall(b"GET / HTTP/1.1\r\n")
    assert others_are_answered(impatient)  # and the first line has been read
    connection.sendall(b"x: " + b"y" * MAX_HEAD_BYTES)
    assert refusal(everything(connection)) == (431, "The headers have over 65,536 bytes, the limit.")


def test_a_client_that_leaves_half_way_is_let_go(connection: socket.socket) -> None:
    connection.sendall(HEAD + LENGTH % 1000 + PICTURE)
    connection.shutdown(socket.SHUT_WR)
    assert everything(connection) == b""


def test_a_body_that_is_longer_than_announced_is_told_in_a_sentence(connection: socket.socket) -> None:
    connection.sendall(HEAD + LENGTH % 100 + PICTURE)
    assert refusal(everything(connection)) == (400, "This is no HTTP request.")


def test_too_many_requests_ahead_of_their_answers_end_the_connection(connection: socket.socket) -> None:
    request = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
    connection.sendall((1 + MAX_AHEAD) * request)
    answers = b""
    while answers.count(b"alive") <= MAX_AHEAD:
        answers += connection.recv(65_536)
    assert answers.count(b"HTTP/1.1 200") == 1 + MAX_AHEAD
    connection.sendall(1000 * request)
    assert everything(connection).count(b"HTTP/1.1 200") == 0


@pytest.fixture(scope="module")
def large_answers(impatient: httpx.Client) -> bytes:
    """A request for more than the kernel takes at once."""
    [script] = re.findall(r'src="([^"]+bundle[^"]+)"', impatient.get("/docs").text)
    request = b"GET %s HTTP/1.1\r\nHost: x\r\n" % script.encode()
    return LARGE_ANSWERS * (request + b"\r\n") + request + b"Connection: close\r\n\r\n"


def test_a_client_that_does_not_read_is_let_go(
    connection: socket.socket, impatient: httpx.Client, large_answers: bytes
) -> None:
    poller = select.poll()
    poller.register(connection, 0)  # errors and the end are told nevertheless
    begin = time.monotonic()
    connection.sendall(large_answers)
    assert others_are_answered(impatient)
    assert poller.poll(1000 * DEADLINE_SECONDS)
    assert SECONDS <= time.monotonic() - begin < 10 * SECONDS


def test_a_client_that_reads_late_gets_its_answer(connection: socket.socket, large_answers: bytes) -> None:
    connection.sendall(large_answers)
    begin = time.monotonic()
    for _ in poll():
        if time.monotonic() - begin > 0.8 * SECONDS:
            break
    assert len(everything(connection)) > LARGE_ANSWERS * 10**6


def test_idle_connections_end_at_the_deadline_and_others_are_answered(impatient: httpx.Client) -> None:
    connections = [dial(impatient) for _ in range(IDLE)]
    assert others_are_answered(impatient)
    for connection in connections:
        with connection:
            assert refusal(everything(connection))[0] == 408


def test_a_hasty_client_is_let_in_once_the_others_have_gone(settings: Settings) -> None:
    slow = encoded(Image.new("L", (4000, 4000)))  # takes a thread long enough to decode
    gone = threading.Event()

    def press(address: httpx.URL) -> None:
        with httpx.Client(base_url=address, timeout=DEADLINE_SECONDS) as other:
            while not gone.is_set():
                other.post("/predict", files={"file": slow})

    crowded = Settings(model=settings.model, max_waiting=1)
    with serving(crowded) as client, ThreadPoolExecutor() as pool:
        try:
            pressing = [pool.submit(press, client.base_url) for _ in range(3)]
            for _ in poll():
                answer = client.post("/predict", files={"file": PICTURE})
                if answer.status_code == 503:
                    break
            assert answer.headers["retry-after"] == str(RETRY_AFTER_SECONDS)
            assert client.post("/predict", files={"file": PICTURE}).status_code == 503
        finally:
            gone.set()
        for each in pressing:
            each.result()
        time.sleep(2 * FULL_SECONDS)
        assert client.post("/predict", files={"file": PICTURE}).status_code == 200
