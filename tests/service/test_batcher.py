import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from classifier.classifier import Classifier, Prediction
from classifier.networks import Pixels
from classifier.picture import BrokenPicture, UnsupportedPicture
from service.batcher import FULL_SECONDS, Batcher, Overloaded, TooLate
from service.metrics import Metrics
from service.reload import Reloader
from service.settings import Settings
from tests.service.conftest import encoded


def pictures(n: int) -> Pixels:
    return np.random.default_rng(0).integers(256, size=(n, 28, 28), dtype=np.uint8)


def encoded_pictures(n: int) -> list[bytes]:
    return [encoded(Image.fromarray(pixels)) for pixels in pictures(n)]


async def loaded(model: Path, **settings: Any) -> Batcher:
    asked, metrics = Settings(model=model, **settings), Metrics()
    batcher = Batcher(asked, metrics, Reloader(asked, metrics))
    await batcher.reloader.load()
    return batcher


def test_each_picture_gets_its_own_answer(tiny_checkpoint: Path) -> None:
    async def ask() -> list[Prediction]:
        batcher = await loaded(tiny_checkpoint, max_batch=7)
        return await asyncio.gather(*map(batcher.predict, encoded_pictures(50)))

    expected = Classifier.load(tiny_checkpoint, "cpu").predict(pictures(50)[:, None])
    for got, wanted in zip(asyncio.run(ask()), expected, strict=True):
        assert got["index"] == wanted["index"]
        assert got["confidence"] == pytest.approx(wanted["confidence"], abs=1e-5)


def test_large_pictures_and_small_ones_are_answered_together(tiny_checkpoint: Path) -> None:
    large = encoded(Image.fromarray(pictures(1)[0]).resize((600, 600), Image.Resampling.NEAREST))

    async def ask() -> list[Prediction | BaseException]:
        batcher = await loaded(tiny_checkpoint)
        contents = [large, encoded_pictures(1)[0], large[:-100], b"text"]
        return await asyncio.gather(*map(batcher.predict, contents), return_exceptions=True)

    kinds = [type(result) for result in asyncio.run(ask())]
    assert kinds == [dict, dict, BrokenPicture, UnsupportedPicture]


def test_more_than_may_wait_are_not_let_in(tiny_checkpoint: Path) -> None:
    async def ask() -> None:
        batcher = await loaded(tiny_checkpoint, max_waiting=2)
        asked = []
        for content in encoded_pictures(2):
            batcher.check()
            asked.append(asyncio.create_task(batcher.predict(content)))
            await asyncio.sleep(0)
        with pytest.raises(Overloaded, match=r"^2 pictures wait already"):
            batcher.check()
        await asyncio.gather(*asked)
        batcher.check()

    asyncio.run(ask())


def test_hasty_clients_are_kept_out_until_the_limit_is_no_longer_reached(tiny_checkpoint: Path) -> None:
    async def ask() -> None:
        batcher = await loaded(tiny_checkpoint, max_waiting=1)
        batcher.check(hasty=True)
        waiting = asyncio.create_task(batcher.predict(encoded_pictures(1)[0]))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            batcher.check()
        await waiting
        batcher.check()
        with pytest.raises(Overloaded):
            batcher.check(hasty=True)
        await asyncio.sleep(2 * FULL_SECONDS)
        batcher.check(hasty=True)

    asyncio.run(ask())


def test_a_picture_that_waited_for_too_long_is_dropped(tiny_checkpoint: Path) -> None:
    async def ask() -> list[Prediction | BaseException]:
        batcher = await loaded(tiny_checkpoint, max_wait_seconds=1e-9)
        return await asyncio.gather(*map(batcher.predict, encoded_pictures(3)), return_exceptions=True)

    for result in asyncio.run(ask()):
        assert isinstance(result, TooLate)
        assert str(result).startswith("The picture waited for ")


def test_a_picture_whose_client_went_away_is_dropped(tiny_checkpoint: Path) -> None:
    async def ask() -> Prediction:
        batcher = await loaded(tiny_checkpoint)
        one, other = (asyncio.create_task(batcher.predict(content)) for content in encoded_pictures(2))
        await asyncio.sleep(0)
        one.cancel()
        return await other

    assert asyncio.run(ask())["index"] in range(10)
