"""Every error sentence stands in docs/http-api.md, and every sentence there can be provoked."""

import asyncio
import re
import socket
from collections.abc import Awaitable, Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest
from PIL import Image
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from classifier.checkpoint import save
from service.app import DRAINING, create_app
from service.settings import Settings, load_settings
from tests.conftest import overflowing
from tests.service.conftest import SHOE, encoded, serving
from tests.service.test_any_server import lifespan

PICTURE = SHOE.read_bytes()
LARGE = encoded(Image.new("P", (3000, 3000)), "GIF")  # decoded in a process
MIDDLE = encoded(Image.effect_noise((700, 700), 50))  # decoded in a thread
DOCUMENT = SHOE.parent / "docs/http-api.md"
ROW = re.compile(r"^\| (.+?) \| (\d{3}) \|", re.MULTILINE)  # sentence and status; `…` stands for any text
HEAD = b"POST /predict HTTP/1.1\r\nHost: x\r\n"

Answer = tuple[int, str]


def rows(heading: str = "### Sentences\n") -> list[Answer]:
    section = re.split(r"\n##", DOCUMENT.read_text().partition(heading)[2])[0]
    return [(int(status), sentence) for sentence, status in ROW.findall(section)]


def matches(answer: Answer, row: Answer) -> bool:
    pattern = ".*?".join(map(re.escape, row[1].split("…")))
    return answer[0] == row[0] and re.fullmatch(pattern, answer[1]) is not None


def of(answer: httpx.Response) -> Answer:
    return answer.status_code, answer.json()["detail"]


def part(name: str, content: bytes = PICTURE, header: bytes = b"") -> bytes:
    return b'--x\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n' % (name.encode(), header, content)


FORM = "multipart/form-data; boundary=x"
END = b"--x--\r\n"
UPLOADS: list[tuple[str, str, bytes]] = [  # path, Content-Type, body
    ("/predict", "multipart/form-data", END),
    ("/predict", FORM + "x" * 300, END),
    ("/predict", FORM + "y", part("file") + END),
    ("/predict", FORM, part("file")),
    ("/predict", FORM, part("file").replace(b"--x", b"--x" + b" " * 100) + END),
    ("/predict", FORM, part("file", header=b"; a=" + b"b" * 5000) + END),
    ("/predict", FORM, part("image") + END),
    ("/predict", FORM, part("file") * 2 + END),
    ("/predict", FORM, part("file", bytes(200_001)) + END),
    ("/predict", FORM, part("other") * 65 + END),
    ("/predict", "image/png", bytes(200_001)),
    ("/predict", "", b""),
    ("/predict", "application/json", part("file") + END),
    ("/predict/batch", FORM, part("image") + END),
    ("/predict/batch", "image/png", PICTURE),
    ("/predict/batch", FORM, part("file") * 65 + END),
    ("/predict/batch", FORM, part("file", bytes(110_000)) * 2 + END),
]


def refused_uploads(settings: Settings) -> Iterator[Answer]:
    with serving(load_settings(**settings.model_dump() | {"cors_origins": "https://shop.example"})) as client:
        for path, kind, content in UPLOADS:
            yield of(client.post(path, content=content, headers={"Content-Type": kind}))
        yield of(client.post("/predict", content=iter([bytes(210_000)] * 2)))
        yield of(client.post("/predict", content=PICTURE, headers={"Content-Encoding": "gzip"}))
        yield of(client.get("/nothing"))
        yield of(client.get("/predict"))
        preflight = {"Origin": "https://other.example", "Access-Control-Request-Method": "POST"}
        yield of(client.options("/predict", headers=preflight))
    with serving(load_settings(**settings.model_dump() | {"api_key": "swordfish"})) as client:
        yield of(client.post("/predict"))


def refused_by_the_server(settings: Settings) -> Iterator[Answer]:
    with serving(settings.model_copy(update={"request_seconds": 0.4})) as client:
        for sent in (
            b"nonsense\r\n\r\n",
            b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n" * 100,
            b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n",
            HEAD + b"X: " + b"y" * 70_000 + b"\r\n\r\n",
            HEAD,
            HEAD + b"Content-Length: 100\r\n\r\nslow",
        ):
            with socket.create_connection(("127.0.0.1", client.base_url.port or 0), timeout=20) as connection:
                connection.sendall(sent)
                answer = b""
                while piece := connection.recv(2**16):
                    answer += piece
            head, _, body = answer[answer.rindex(b"HTTP/1.1 ") :].partition(b"\r\n\r\n")
            yield of(httpx.Response(int(head.split()[1]), content=body))


async def with_app(app: ASGIApp, *contents: bytes, path: str = "/predict") -> list[Answer]:
    """The errors that the app gives to these pictures, sent at once."""
    async with lifespan(app), httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        while "being loaded" in (await client.get("/health")).text:
            await asyncio.sleep(0.01)
        answers = await asyncio.gather(*(client.post(path, content=content) for content in contents))
        return [of(answer) for answer in (*answers, await client.get("/health")) if answer.status_code >= 400]


def refused_for_the_state(settings: Settings, folder: Path) -> Iterator[Answer]:
    def app(**changes: object) -> ASGIApp:
        return create_app(settings.model_copy(update={"max_upload_bytes": 10**8, "max_pixels": 10**8, **changes}))

    def draining(scope: Scope, receive: Receive, send: Send, app: ASGIApp) -> Awaitable[None]:
        return app({**scope, "extensions": {DRAINING: {}}} if scope["type"] == "http" else scope, receive, send)

    def leaving(scope: Scope, receive: Receive, send: Send, app: ASGIApp) -> Awaitable[None]:
        async def gone() -> Message:
            return {"type": "http.disconnect"}

        return app(scope, gone if scope["type"] == "http" else receive, send)

    save(overflowing(), folder / "overflowing.pt")
    noise = encoded(Image.effect_noise((28, 28), 100))
    yield from asyncio.run(with_app(app(max_waiting=1), *[LARGE] * 4))
    yield from asyncio.run(with_app(app(max_wait_seconds=0.001), *[MIDDLE] * 8))
    yield from asyncio.run(with_app(app(max_wait_seconds=0.01), *[LARGE] * 8))
    yield from asyncio.run(with_app(app(model=folder / "gone.pt"), PICTURE))
    yield from asyncio.run(with_app(app(model=folder / "overflowing.pt"), noise))
    yield from asyncio.run(with_app(partial(draining, app=app())))
    yield from asyncio.run(with_app(partial(leaving, app=app()), PICTURE))


@pytest.fixture(scope="module")
def answers(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> list[Answer]:
    return [
        *refused_uploads(settings),
        *refused_by_the_server(settings),
        *refused_for_the_state(settings, tmp_path_factory.mktemp("models")),
    ]


def test_every_sentence_is_documented(answers: list[Answer]) -> None:
    missing = [answer for answer in answers if not any(matches(answer, row) for row in rows())]
    assert not missing


def test_every_documented_sentence_can_be_provoked(answers: list[Answer]) -> None:
    idle = [row for row in rows() if not any(matches(answer, row) for answer in answers)]
    assert not idle
