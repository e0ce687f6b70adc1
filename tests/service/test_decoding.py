import asyncio

import numpy as np
import pytest
from PIL import Image

from classifier.networks import Pixels
from classifier.picture import BrokenPicture, PictureTooLarge, UnsupportedPicture
from classifier.preprocessing import read_pixels
from service.admission import Deadline, DeadlineExceeded
from service.decoding import SMALL_BYTES, Decoder
from service.metrics import Metrics
from tests.service.conftest import encoded

NOISE = Image.effect_noise((28, 28), 50.0)
SMALL = encoded(NOISE)
MANY_BYTES = encoded(Image.effect_noise((200, 200), 50.0))
MANY_PIXELS = encoded(Image.new("L", (600, 600)))


def decode(content: bytes, seconds: float = 60, metrics: Metrics | None = None) -> Pixels:
    async def run() -> Pixels:
        decoder = Decoder(1_000_000, 1_000_000, metrics or Metrics())
        try:
            return await decoder.decode(content, Deadline(seconds))
        finally:
            decoder.close()

    return asyncio.run(run())


@pytest.mark.parametrize("content", [SMALL, MANY_BYTES, MANY_PIXELS], ids=["small", "many bytes", "many pixels"])
def test_small_and_large_pictures_are_decoded_alike(content: bytes) -> None:
    assert np.array_equal(decode(content), read_pixels(content))


def test_only_large_pictures_wait_for_a_thread() -> None:
    metrics = Metrics()
    for content in (SMALL, MANY_BYTES, MANY_PIXELS):
        decode(content, metrics=metrics)
    assert len(MANY_BYTES) > SMALL_BYTES > len(MANY_PIXELS)
    sample = metrics.registry.get_sample_value
    assert sample("fashion_mnist_decode_queue_seconds_count") == 2
    assert sample("fashion_mnist_decode_seconds_count") == 3


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (SMALL[:-50], BrokenPicture),
        (MANY_BYTES[:-100], BrokenPicture),
        (b"text", UnsupportedPicture),
        (bytes(2 * SMALL_BYTES), UnsupportedPicture),
        (encoded(Image.new("L", (1_001, 1_000))), PictureTooLarge),
    ],
)
def test_a_picture_that_cannot_be_decoded_is_refused(content: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        decode(content)


def test_a_large_picture_over_its_deadline_is_not_decoded() -> None:
    with pytest.raises(DeadlineExceeded):
        decode(MANY_BYTES, seconds=1e-9)
