"""The same requests under four servers, and the same answers: the app needs nothing of its own server."""

import asyncio
import signal
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import hypercorn.asyncio
import hypercorn.config
import pytest
import uvicorn
from PIL import Image
from starlette.types import ASGIApp, Message

from service.app import create_app
from service.settings import Settings
from tests.service.conftest import DEADLINE_SECONDS, POLL_SECONDS, SHOE, encoded, free_port, started

PICTURE = SHOE.read_bytes()
LARGE = encoded(Image.new("L", (4_000, 4_000)))  # decoding takes long enough for another request to arrive
COMPARED_HEADERS = ("allow", "content-security-policy", "content-type", "retry-after", "x-content-type-options")

Server = tuple[httpx.AsyncClient, Callable[[], None]]  # a client, and a function that tells the server to stop
Answers = dict[str, tuple[int, Any, dict[str, str]]]


def settings_of(model: Path) -> Settings:
    return Settings(model=model, max_waiting=2, max_wait_seconds=60, drain_seconds=1.5)  # over Retry-After


@asynccontextmanager
async def our_server(model: Path) -> AsyncIterator[Server]:
    settings = settings_of(model)
    environment = {
        f"SERVICE_{name.upper()}": "" if (value := getattr(settings, name)) is None else str(value)
        for name in settings.model_fields_set
    }
    with started(**environment) as (process, client):
        async with httpx.AsyncClient(base_url=client.base_url, timeout=DEADLINE_SECONDS) as asynchronous:
            yield asynchronous, lambda: process.send_signal(signal.SIGTERM)


@asynccontextmanager
async def plain_uvicorn(model: Path) -> AsyncIterator[Server]:
    server = uvicorn.Server(uvicorn.Config(create_app(settings_of(model)), port=free_port(), log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()

    def stop() -> None:
        server.should_exit = True

    try:
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{server.config.port}", timeout=DEADLINE_SECONDS
        ) as client:
            yield client, stop
    finally:
        stop()
        thread.join()


@asynccontextmanager
async def hypercorn_server(model: Path) -> AsyncIterator[Server]:
    config = hypercorn.config.Config()
    port = free_port()
    config.bind = [f"127.0.0.1:{port}"]
    config.graceful_timeout = DEADLINE_SECONDS
    stopping = asyncio.Event()
    app: Any = create_app(settings_of(model))
    serving = asyncio.create_task(hypercorn.asyncio.serve(app, config, shutdown_trigger=stopping.wait))
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=DEADLINE_SECONDS) as client:
            yield client, stopping.set
    finally:
        stopping.set()
        await serving


@asynccontextmanager
async def asgi_transport(model: Path) -> AsyncIterator[Server]:
    app = create_app(settings_of(model))
    async with lifespan(app), httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        yield client, lambda: None


@asynccontextmanager
async def lifespan(app: ASGIApp) -> AsyncIterator[None]:
    """Starts and stops the app as a server without lifespan state does."""
    events: asyncio.Queue[Message] = asyncio.Queue()
    answers: asyncio.Queue[Message] = asyncio.Queue()
    scope = {"type": "lifespan", "asgi": {"version": "3.0"}}
    running = asyncio.ensure_future(app(scope, events.get, answers.put))
    await events.put({"type": "lifespan.startup"})
    assert (await answers.get())["type"] == "lifespan.startup.complete"
    yield
    await events.put({"type": "lifespan.shutdown"})
    assert (await answers.get())["type"] == "lifespan.shutdown.complete"
    await running


SERVERS = {
    "our server": our_server,
    "plain uvicorn": plain_uvicorn,
    "hypercorn": hypercorn_server,
    "httpx.ASGITransport": asgi_transport,
}


async def until_ready(client: httpx.AsyncClient) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            with suppress(httpx.TransportError):
                if (await client.get("/health")).status_code == 200:
                    return
            await asyncio.sleep(POLL_SECONDS)


async def refused_for_overload(client: httpx.AsyncClient) -> httpx.Response:
    """The answer to a picture that arrives while two large ones hold all places."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            large = asyncio.create_task(client.post("/predict/batch", files=[("file", LARGE), ("file", LARGE)]))
            await asyncio.sleep(POLL_SECONDS)
            answer = await client.post("/predict", files={"file": PICTURE})
            await large
            if answer.status_code != 200:
                return answer


async def answered_while_stopping(client: httpx.AsyncClient, stop: Callable[[], None]) -> httpx.Response:
    """The answer to a request that has begun before the server is told to stop, and is complete after that."""

    async def body() -> AsyncIterator[bytes]:
        yield PICTURE[:-1]
        stop()
        if str(client.base_url) != "http://test":
            async with asyncio.timeout(DEADLINE_SECONDS):
                with suppress(httpx.TransportError):
                    while True:  # until it no longer accepts connections
                        async with httpx.AsyncClient(base_url=client.base_url) as other:
                            await other.get("/health/live")
                        await asyncio.sleep(POLL_SECONDS)
        yield PICTURE[-1:]

    return await client.post("/predict", content=body(), headers={"Content-Type": "image/png"})


async def answers_of(name: str, model: Path) -> Answers:
    async with SERVERS[name](model) as (client, stop):
        await until_ready(client)
        answers = {
            "a form": await client.post("/predict", files={"file": PICTURE}),
            "a body": await client.post("/predict", content=PICTURE, headers={"Content-Type": "image/png"}),
            "a batch": await client.post("/predict/batch", files=[("file", PICTURE), ("file", b"text")]),
            "a batch over the limit": await client.post("/predict/batch", files=[("file", PICTURE)] * 3),
            "a broken picture": await client.post("/predict", files={"file": PICTURE[:200]}),
            "a text": await client.post("/predict", files={"file": b"text"}),
            "no file": await client.post("/predict"),
            "health": await client.get("/health"),
            "HEAD": await client.head("/health"),
            "liveness": await client.get("/health/live"),
            "another method": await client.get("/predict"),
            "another address": await client.get("/nothing"),
            "an overload": await refused_for_overload(client),
            "a drain": await answered_while_stopping(client, stop),
        }
    return {
        case: (
            answer.status_code,
            answer.json() if answer.content else None,
            {name: answer.headers[name] for name in COMPARED_HEADERS if name in answer.headers},
        )
        for case, answer in answers.items()
    }


@pytest.fixture(scope="module")
def expected(tiny_checkpoint: Path) -> Answers:
    return asyncio.run(answers_of("our server", tiny_checkpoint))


def test_our_own_server_answers_as_the_contract_says(expected: Answers) -> None:
    assert {case: status for case, (status, _, _) in expected.items()} == {
        "a form": 200,
        "a body": 200,
        "a batch": 200,
        "a batch over the limit": 413,
        "a broken picture": 400,
        "a text": 415,
        "no file": 422,
        "health": 200,
        "HEAD": 200,
        "liveness": 200,
        "another method": 405,
        "another address": 404,
        "an overload": 503,
        "a drain": 200,
    }
    assert expected["an overload"][2]["retry-after"] == "1"


@pytest.mark.parametrize("name", list(SERVERS)[1:])
def test_another_server_gives_the_same_answers(name: str, tiny_checkpoint: Path, expected: Answers) -> None:
    assert asyncio.run(answers_of(name, tiny_checkpoint)) == expected
