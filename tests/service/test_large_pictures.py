"""Pictures that cost much do not keep others waiting: admission control by cost, the cheapest first."""

import asyncio
import time
from pathlib import Path

import httpx
import pytest
from PIL import Image

from service.admission import Deadline, DeadlineExceeded, DecodeQueue, Overloaded
from tests.classifier.test_hostile_pictures import encode
from tests.classifier.test_jpeg import small_scans
from tests.service.conftest import started

PHOTO = encode(Image.effect_noise((640, 480), 40.0).convert("RGB"), "JPEG")
COSTLY = {
    "webp": encode(Image.new("RGBA", (2_400, 2_400)), "WEBP", lossless=True, method=0),
    "png": encode(Image.new("RGBA", (2_900, 2_900)), "PNG"),
    "jpeg": small_scans(2_000, 24),
    "avif": encode(Image.new("RGBA", (2_800, 2_800)), "AVIF", speed=10),
    "gif": encode(Image.new("P", (4_000, 4_000)), "GIF"),
}
RATE, SECONDS = 20, 2.5  # costly pictures a second
MAX_SECONDS = 5.0  # for another picture or /health, which takes 0.1 s; on a slow machine that others share


async def answers(client: httpx.AsyncClient, path: str, content: bytes | None = None) -> tuple[int, float]:
    """The status, and the seconds that the answer took."""
    begin = time.monotonic()
    response = await (client.post(path, content=content) if content else client.get(path))
    return response.status_code, time.monotonic() - begin


@pytest.mark.parametrize("name", COSTLY)
def test_other_pictures_are_answered_while_dear_ones_arrive(name: str, tiny_checkpoint: Path) -> None:
    async def flood(url: httpx.URL) -> tuple[list[tuple[int, float]], list[tuple[int, float]]]:
        limits = httpx.Limits(max_connections=None)  # a refused client is not read for a second
        async with (
            httpx.AsyncClient(base_url=url, timeout=60, limits=limits) as hostile,
            httpx.AsyncClient(base_url=url, timeout=60) as other,
        ):
            costly, others = [], []
            for _ in range(round(RATE * SECONDS)):
                costly.append(asyncio.create_task(answers(hostile, "/predict", COSTLY[name])))
                others.append(asyncio.create_task(answers(other, "/predict", PHOTO)))
                others.append(asyncio.create_task(answers(other, "/health")))
                await asyncio.sleep(1 / RATE)
            return await asyncio.gather(*costly), await asyncio.gather(*others)

    with started(SERVICE_MODEL=str(tiny_checkpoint)) as (_, client):
        costly, others = asyncio.run(flood(client.base_url))
    assert {status for status, _ in others} == {200}
    assert max(seconds for _, seconds in others) < MAX_SECONDS
    assert {status for status, _ in costly} <= {200, 503}
    assert 200 in {status for status, _ in costly}


def test_the_cheapest_large_picture_is_next() -> None:
    async def run() -> list[float]:
        queue, done = DecodeQueue(), []

        async def decode(seconds: float) -> None:
            async with queue.turn(seconds, Deadline(60)):
                done.append(seconds)
                await asyncio.sleep(0)

        async with asyncio.TaskGroup() as group:
            for seconds in (0.5, 0.9, 0.3, 0.1, 0.3):
                group.create_task(decode(seconds))
        return done

    assert asyncio.run(run()) == [0.5, 0.1, 0.3, 0.3, 0.9]


def test_large_pictures_that_could_not_be_decoded_in_time_are_refused() -> None:
    async def run() -> None:
        queue = DecodeQueue()
        async with queue.turn(1.5, Deadline(2)):
            cheap = asyncio.create_task(queue.turn(0.4, Deadline(2)).__aenter__())
            await asyncio.sleep(0)
            with pytest.raises(Overloaded, match=r"decoding them takes 2\.9 s, over the limit of 2 s"):
                await queue.turn(1.0, Deadline(2)).__aenter__()
        await cheap

    asyncio.run(run())


def test_a_client_that_leaves_gives_its_turn_away() -> None:
    async def run() -> None:
        queue = DecodeQueue()
        async with queue.turn(0.5, Deadline(2)):
            leaving = asyncio.create_task(queue.turn(0.1, Deadline(2)).__aenter__())
            staying = asyncio.create_task(queue.turn(0.2, Deadline(2)).__aenter__())
            await asyncio.sleep(0)
            leaving.cancel()
        await asyncio.wait_for(staying, 5)

    asyncio.run(run())


def test_a_large_picture_waits_no_longer_than_its_deadline() -> None:
    async def run() -> None:
        queue = DecodeQueue()
        async with queue.turn(0.1, Deadline(2)):
            with pytest.raises(DeadlineExceeded, match=r"over the limit of 0\.2 s"):
                await queue.turn(0.1, Deadline(0.2)).__aenter__()
        async with queue.turn(0.1, Deadline(2)):  # the turn is free again
            pass

    asyncio.run(run())
