"""Any bytes in any packets: the answers are those of plain uvicorn, to the same bytes without `Upgrade` headers.

STREAMS=20000 in the environment tries so many streams; without it there are 500.
"""

import asyncio
import gc
import hashlib
import os
import weakref
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from service.server.protocol import DeadlineProtocol
from service.server.uvicorn_api import HttpToolsProtocol
from service.settings import Settings
from tests.service.server.streams import Answers, Request, answers_of, chunked

STREAMS = int(os.environ.get("STREAMS", "500"))
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"


bodies = st.sampled_from([b"", b"picture", SMUGGLED, 2 * SMUGGLED, b"\r\n\r\n", b"0\r\n\r\n" + SMUGGLED]) | st.binary(
    max_size=60
)
connections = st.sampled_from(
    [b"Upgrade", b"upgrade", b"keep-alive, Upgrade", b"Upgrade, HTTP2-Settings", b"close, upgrade", b"close", b""]
)
upgrades = st.lists(
    st.sampled_from([b"h2c", b"websocket", b"TLS/1.0", b"HTTP/2.0, h2c", b"\xe9", b"", b"x" * 300]).map(
        b"Upgrade: ".__add__
    ),
    max_size=2,
).map(tuple)


@st.composite
def requests(draw: st.DrawFn) -> Request:
    body = draw(bodies)
    size = b"%d" % len(body)
    framing: tuple[bytes, ...]
    framing, content = draw(
        st.sampled_from(
            [
                ((b"Content-Length: " + size,), body),
                ((b"content-length:  " + size + b" ",), body),
                ((b"Transfer-Encoding: chunked",), chunked(body, 7, b"")),
                ((b"Transfer-Encoding: chunked",), chunked(body, 1000, b"X-Trailer: 1\r\n")),
                ((), body),  # the body is the next request
                ((b"Content-Length: 3",), body),
                ((b"Content-Length: " + size, b"Content-Length: 0"), body),
                ((b"Content-Length: +" + size,), body),
                ((b"Content-Length: " + size, b"Transfer-Encoding: chunked"), chunked(body, 9, b"")),
                ((b"Transfer-Encoding: gzip, chunked",), chunked(body, 9, b"")),
                ((b"Transfer-Encoding: identity",), body),
                ((b"Transfer-Encoding: chunked",), body),
            ]
        )
    )
    others = draw(
        st.lists(
            st.sampled_from(
                [b"Expect: 100-continue", b"X:", b"Content-Type: image/png", b"X : y", b" folded", b"X: \0"]
            ),
            max_size=1,
        )
    )
    connection = draw(st.lists(connections.map(b"Connection: ".__add__), max_size=1))
    method = draw(st.sampled_from([b"POST", b"POST", b"GET", b"PUT", b"HEAD", b"BREW"]))
    version = draw(st.sampled_from([b"HTTP/1.1"] * 5 + [b"HTTP/1.0", b"HTTP/2.0"]))
    line = b"%s /predict?a=b %s" % (method, version)
    headers = tuple(draw(st.permutations([*framing, *others, *connection])))
    return Request(line, headers, draw(upgrades), content)


def pieces(content: bytes, cuts: list[float]) -> list[bytes]:
    at = sorted({0, len(content), *(int(cut * len(content)) for cut in cuts)})
    return [content[begin:end] for begin, end in pairwise(at)]


@given(st.lists(requests(), min_size=1, max_size=4), st.lists(st.floats(0, 1), max_size=6), st.booleans())
@settings(
    max_examples=STREAMS,
    deadline=None,
    derandomize=STREAMS == 500,
    suppress_health_check=list(HealthCheck),
    database=None,
)
def test_answers_are_those_of_plain_uvicorn_without_upgrade(
    stream: list[Request], cuts: list[float], byte_by_byte: bool
) -> None:
    async def both() -> tuple[Answers, Answers]:
        ours = b"".join(request.render(upgrade=True) for request in stream)
        plain = b"".join(request.render(upgrade=False) for request in stream)
        packets = [bytes([byte]) for byte in ours] if byte_by_byte and len(ours) < 400 else pieces(ours, cuts)
        return (
            await answers_of(DeadlineProtocol, packets, settings=Settings()),
            await answers_of(HttpToolsProtocol, pieces(plain, cuts)),
        )

    ours, plain = asyncio.run(both())
    note(f"{stream}: ours {ours}, plain {plain}")
    if plain and plain[-1][0] == 400:  # plain uvicorn refuses at once, and drops the answers that are not ready
        assert ours[-1][0] == 400 or any(request.is_last for request in stream)
        assert ours[: len(plain) - 1] == plain[:-1]
        assert {status for status, _ in ours[:-1]} <= {100, 200}
    else:
        assert ours == plain


@pytest.mark.parametrize("token", [b"h2c", b"websocket", b"TLS/1.0", b"anything"])
@pytest.mark.parametrize("size", [1, 20, 10_000], ids=["a byte a packet", "20 bytes a packet", "one packet"])
@pytest.mark.parametrize("is_chunked", [False, True])
def test_the_body_behind_an_upgrade_is_no_request(token: bytes, size: int, is_chunked: bool) -> None:
    framing = b"Transfer-Encoding: chunked" if is_chunked else b"Content-Length: %d" % len(SMUGGLED)
    body = chunked(SMUGGLED, 9, b"") if is_chunked else SMUGGLED
    request = Request(b"POST /predict HTTP/1.1", (b"Connection: Upgrade", framing), (b"Upgrade: " + token,), body)
    content = request.render(upgrade=True) + b"GET /next HTTP/1.1\r\nHost: x\r\n\r\n"
    packets = [content[at : at + size] for at in range(0, len(content), size)]
    answers = asyncio.run(answers_of(DeadlineProtocol, packets, settings=Settings()))
    digest, empty = hashlib.sha256(SMUGGLED).hexdigest(), hashlib.sha256().hexdigest()
    assert answers == [(200, f"POST /predict {digest}".encode()), (200, f"GET /next {empty}".encode())]


def test_connect_is_refused_and_what_follows_it_is_not_read() -> None:
    packets = [b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n" + SMUGGLED, SMUGGLED]
    assert asyncio.run(answers_of(DeadlineProtocol, packets, settings=Settings())) == [(400, b"")]


def test_trailers_are_no_headers() -> None:
    seen: list[Any] = []

    class Recording(DeadlineProtocol):
        def on_message_complete(self) -> None:
            seen.append(self.scope["headers"])
            super().on_message_complete()

    body = chunked(b"picture", 3, b"Authorization: Bearer key\r\n")
    request = Request(b"POST /predict HTTP/1.1", (b"Transfer-Encoding: chunked",), (), body)
    asyncio.run(answers_of(Recording, [request.render(upgrade=False)], settings=Settings()))
    assert [name for name, _ in seen[0]] == [b"host", b"transfer-encoding"]


@pytest.mark.parametrize(
    "content",
    [b"", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"GET / HTT", b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\na", b"\0"],
)
def test_a_closed_connection_is_freed_without_the_garbage_collector(content: bytes) -> None:
    """Else 10,000 connections leave more memory than `benchmarks.soak.idle_connections` allows."""
    connections: list[weakref.ref[DeadlineProtocol]] = []

    class Watched(DeadlineProtocol):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            connections.append(weakref.ref(self))

    async def connect() -> None:
        await answers_of(Watched, [content], settings=Settings(keep_alive_seconds=1))
        for _ in range(10):
            await asyncio.sleep(0)
        assert connections[0]() is None

    gc.disable()
    try:
        asyncio.run(connect())
    finally:
        gc.enable()
