import asyncio
from pathlib import Path

import numpy as np
import pytest

from service.batcher import Batcher, NotReady, Overloaded
from training.classifier.classifier import Answer, Classifier
from training.classifier.model import Pixels


def pictures(n: int) -> Pixels:
    return np.random.default_rng(0).integers(256, size=(n, 28, 28), dtype=np.uint8)


def test_each_picture_gets_its_own_answer(tiny_checkpoint: Path) -> None:
    async def ask() -> list[Answer]:
        batcher = Batcher(max_batch=7, max_waiting=100)
        await batcher.load(tiny_checkpoint, "cpu")
        return await asyncio.gather(*(batcher.predict(pixels) for pixels in pictures(50)))

    expected = Classifier.load(tiny_checkpoint, "cpu").answers(pictures(50)[:, None])
    for got, wanted in zip(asyncio.run(ask()), expected, strict=True):
        assert got["index"] == wanted["index"]
        assert got["confidence"] == pytest.approx(wanted["confidence"], abs=1e-5)


def test_more_than_may_wait_are_refused_at_once(tiny_checkpoint: Path) -> None:
    async def ask() -> list[Answer | BaseException]:
        batcher = Batcher(max_batch=2, max_waiting=3)
        await batcher.load(tiny_checkpoint, "cpu")
        return await asyncio.gather(*(batcher.predict(pixels) for pixels in pictures(5)), return_exceptions=True)

    kinds = [type(result) for result in asyncio.run(ask())]
    assert kinds == [dict, dict, dict, Overloaded, Overloaded]


def test_a_picture_whose_client_went_away_is_dropped(tiny_checkpoint: Path) -> None:
    async def ask() -> Answer:
        batcher = Batcher(max_batch=8, max_waiting=8)
        await batcher.load(tiny_checkpoint, "cpu")
        one, other = (asyncio.create_task(batcher.predict(pixels)) for pixels in pictures(2))
        await asyncio.sleep(0)
        one.cancel()
        return await other

    assert asyncio.run(ask())["index"] in range(10)


def test_without_a_model_the_reason_is_given(tmp_path: Path) -> None:
    async def ask() -> None:
        batcher = Batcher(max_batch=1, max_waiting=1)
        with pytest.raises(NotReady, match="being loaded"):
            await batcher.predict(pictures(1)[0])
        await batcher.load(tmp_path / "gone.pt", "cpu")
        with pytest.raises(NotReady, match=r"gone\.pt does not exist"):
            await batcher.predict(pictures(1)[0])

    asyncio.run(ask())
