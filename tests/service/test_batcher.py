import asyncio
from pathlib import Path

import numpy as np
import pytest

from classifier.classifier import Classifier, Prediction
from classifier.networks import Pixels
from service.admission import Deadline, DeadlineExceeded
from service.batcher import Batcher
from service.metrics import Metrics
from service.model_store import ServedModel


@pytest.fixture(scope="module")
def classifier(tiny_checkpoint: Path) -> Classifier:
    return Classifier.load(tiny_checkpoint, "cpu")


def pictures(n: int) -> Pixels:
    return np.random.default_rng(0).integers(256, size=(n, 1, 28, 28), dtype=np.uint8)


def make(classifier: Classifier, runs_inline: bool = True, max_batch: int = 32) -> Batcher:
    return Batcher(lambda: ServedModel(classifier, runs_inline, 0), max_batch, Metrics())


def predict_all(batcher: Batcher, deadline: Deadline | None = None, n: int = 50) -> list[Prediction | BaseException]:
    async def run() -> list[Prediction | BaseException]:
        predictions = (batcher.predict(pixels, deadline) for pixels in pictures(n))
        return await asyncio.gather(*predictions, return_exceptions=True)

    return asyncio.run(run())


@pytest.mark.parametrize("runs_inline", [True, False])
def test_each_picture_gets_its_own_prediction(classifier: Classifier, runs_inline: bool) -> None:
    batcher = make(classifier, runs_inline, max_batch=7)
    expected = classifier.predict(pictures(50))
    for got, wanted in zip(predict_all(batcher), expected, strict=True):
        assert not isinstance(got, BaseException)
        assert got["index"] == wanted["index"]
        assert got["confidence"] == pytest.approx(wanted["confidence"], abs=1e-5)
    batcher.close()


def test_pictures_that_arrive_together_are_one_batch(classifier: Classifier) -> None:
    metrics = Metrics()
    predict_all(Batcher(lambda: ServedModel(classifier, True, 0), 32, metrics), n=40)
    sample = metrics.registry.get_sample_value
    assert sample("fashion_mnist_batch_pictures_sum") == 40
    assert sample("fashion_mnist_batch_pictures_count") == 2


def test_a_picture_over_its_deadline_is_dropped(classifier: Classifier) -> None:
    for result in predict_all(make(classifier), Deadline(1e-9), n=3):
        assert isinstance(result, DeadlineExceeded)


def test_a_picture_whose_client_left_is_dropped(classifier: Classifier) -> None:
    async def run() -> Prediction:
        batcher = make(classifier)
        left, stayed = (asyncio.create_task(batcher.predict(pixels)) for pixels in pictures(2))
        await asyncio.sleep(0)
        left.cancel()
        return await stayed

    assert asyncio.run(run())["index"] in range(10)


@pytest.mark.parametrize("runs_inline", [True, False])
def test_an_error_reaches_every_caller_and_the_next_batch_goes_on(classifier: Classifier, runs_inline: bool) -> None:
    batcher = make(classifier, runs_inline)

    async def run() -> list[Prediction | BaseException]:
        wrong = np.zeros((1, 1), np.uint8)
        results = await asyncio.gather(*(batcher.predict(wrong) for _ in range(3)), return_exceptions=True)
        return [*results, await batcher.predict(pictures(1)[0])]

    *failed, last = asyncio.run(run())
    assert all(isinstance(result, Exception) for result in failed)
    assert isinstance(last, dict)
