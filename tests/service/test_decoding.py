import asyncio
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from classifier import limits
from classifier.picture import MAX_JPEG_PIXELS, MAX_PIXELS, BrokenPicture, PictureTooLarge, UnsupportedPicture
from classifier.pixels import SHAPE, Pixels
from service.admission import Deadline, DeadlineExceeded
from service.decode_process import DecodeProcess, DecoderStopped
from service.decoding import SMALL_BYTES, Decoder
from service.metrics import Metrics
from tests.classifier.reading import read_pixels
from tests.service.conftest import encoded

COSTLY = Path(__file__).parents[1] / "classifier/costly"
NOISE = Image.effect_noise((28, 28), 50.0)
SMALL = encoded(NOISE)
MANY_BYTES = encoded(Image.effect_noise((200, 200), 50.0))
MANY_PIXELS = encoded(Image.new("L", (600, 600)))


def decode(content: bytes, seconds: float = 60, metrics: Metrics | None = None) -> Pixels:
    async def run() -> Pixels:
        decoder = Decoder(1_000_000, 1_000_000, metrics or Metrics())
        try:
            prepared = await decoder.decode(content, Deadline(seconds))
            pixels: Pixels = prepared.pixels[0]
            return pixels
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


HUGE = encoded(Image.effect_noise((1_000, 1_000), 50.0))
AVIF = encoded(Image.linear_gradient("L"), "AVIF")


@pytest.mark.parametrize("content", [HUGE, AVIF], ids=["many pixels", "avif"])
def test_a_large_picture_is_decoded_alike_in_a_process(content: bytes) -> None:
    metrics = Metrics()
    assert np.array_equal(decode(content, metrics=metrics), read_pixels(content))
    assert metrics.registry.get_sample_value("fashion_mnist_decode_seconds_count") == 1


@pytest.mark.parametrize("content", [HUGE[:-100_000], AVIF[:-50]])
def test_a_large_picture_that_is_broken_is_refused_by_the_process(content: bytes) -> None:
    with pytest.raises(BrokenPicture, match=r"picture is damaged or incomplete\.$"):
        decode(content)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads memory from /proc")
def test_the_process_takes_no_more_memory_for_many_costly_pictures_than_for_one() -> None:
    process = DecodeProcess(MAX_PIXELS, MAX_JPEG_PIXELS)
    process.decode(SMALL)
    child = process._process
    assert child
    before = memory(child.pid, "VmRSS")
    for size in (2_000, 2_400, 2_800, 2_800):
        process.decode((COSTLY / "avif").read_bytes())
        process.decode(encoded(Image.radial_gradient("L").resize((size, size)).convert("RGBA"), "PNG"))
    assert memory(child.pid, "VmHWM") - before < 1.1 * limits.SMALL_MEMORY
    process.close()


def memory(pid: int, name: str) -> int:
    """Bytes."""
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith(name)]
    return 1024 * int(line.split()[1])


def test_a_decoder_that_crashes_is_started_again() -> None:
    process = DecodeProcess(10**7, 10**7)
    try:
        assert process.decode(AVIF).pixels.shape == SHAPE
        assert process._process
        process._process.kill()  # while it is idle, as by the kernel that needs memory
        process._process.wait()
        assert process.decode(AVIF).pixels.shape == SHAPE
        for number, error in ((signal.SIGKILL, DecoderStopped), (signal.SIGSEGV, BrokenPicture)):
            running = process._process
            assert running
            running.send_signal(signal.SIGSTOP)
            threading.Timer(0.2, running.send_signal, (number,)).start()  # while it decodes
            threading.Timer(0.3, running.send_signal, (signal.SIGCONT,)).start()
            with pytest.raises(error, match=r"decoder failed|decoder of the picture was stopped"):
                process.decode(AVIF)
            assert process.decode(AVIF).pixels.shape == SHAPE
        assert process.decode(AVIF).pixels.shape == SHAPE
    finally:
        process.close()


def test_a_large_picture_does_not_stop_the_event_loop() -> None:
    async def run() -> float:
        decoder = Decoder(MAX_PIXELS, MAX_JPEG_PIXELS, Metrics())
        large = encoded(Image.effect_noise((1_800, 1_800), 50.0).convert("RGB"), "AVIF")
        longest, last = 0.0, time.monotonic()
        try:
            task = asyncio.create_task(decoder.decode(large, Deadline(60)))
            while not task.done():
                await asyncio.sleep(0.001)
                longest, last = max(longest, time.monotonic() - last), time.monotonic()
            await task
        finally:
            decoder.close()
        return longest

    assert asyncio.run(run()) < 0.1  # in a thread: 0.3 s
