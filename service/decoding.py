"""Decodes pictures: small ones in the event loop, which takes less time than a thread switch, others in threads."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

from PIL.ImageFile import ImageFile

from classifier.networks import Pixels
from classifier.picture import open_picture
from classifier.preprocessing import preprocess
from service.admission import Deadline
from service.metrics import Metrics

SMALL_BYTES, SMALL_PIXELS = 8 * 2**10, 64 * 2**10  # a picture within both decodes in under 1 ms
THREADS = 2  # a progressive JPEG of 50 megapixels needs 290 MB in each


class Decoder:
    """Encoded pictures -> pixels, within limits of width times height."""

    def __init__(self, max_pixels: int, max_jpeg_pixels: int, metrics: Metrics) -> None:
        self._limits = max_pixels, max_jpeg_pixels
        self._metrics = metrics
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="decode")

    async def decode(self, content: bytes, deadline: Deadline) -> Pixels:
        """uint8 [28,28] of an encoded picture. Raises PictureError, DeadlineExceeded."""
        if len(content) <= SMALL_BYTES:
            picture = open_picture(content, *self._limits)
            if picture.width * picture.height <= SMALL_PIXELS:
                return self._decode(picture)
        return await asyncio.get_running_loop().run_in_executor(
            self._threads, self._decode_in_thread, content, deadline, time.monotonic()
        )

    def _decode_in_thread(self, content: bytes, deadline: Deadline, submitted: float) -> Pixels:
        self._metrics.decode_queue_seconds.observe(time.monotonic() - submitted)
        deadline.check()
        return self._decode(open_picture(content, *self._limits))

    def _decode(self, picture: ImageFile) -> Pixels:
        begin = time.monotonic()
        pixels = preprocess(picture)
        self._metrics.count_decoded(time.monotonic() - begin)
        return pixels

    def close(self) -> None:
        """Waits for the threads to end."""
        self._threads.shutdown()
