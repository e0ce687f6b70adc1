"""Decodes pictures: those of 28×28 in the event loop, others in threads, and large ones in a process of their own.

A picture of 28×28 takes less time than a thread switch. A large one must not keep others waiting.
"""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

from PIL.ImageFile import ImageFile

from classifier.avif import is_avif
from classifier.picture import decode_seconds, open_picture
from classifier.pixels import SIDE
from classifier.preprocessing import Prepared, preprocess
from service.admission import Deadline, DecodeQueue, Overloaded
from service.decode_process import DecodeProcess, DecoderStopped
from service.metrics import Metrics

SMALL_BYTES, SMALL_SECONDS = 4 * 2**10, 0.25e-3  # 64 of the costliest in a batch took 45 ms of the event loop
LARGE_SECONDS = 15e-3  # 20 smaller ones a second take less than a third of a core
THREADS = 2


class Decoder:
    """Encoded pictures -> pixels, within limits of width times height."""

    def __init__(self, max_pixels: int, max_jpeg_pixels: int, metrics: Metrics) -> None:
        self._limits = max_pixels, max_jpeg_pixels
        self._metrics = metrics
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="decode")
        self._queue = DecodeQueue()
        self._process = DecodeProcess(*self._limits)
        self._process_thread = ThreadPoolExecutor(1, thread_name_prefix="decode-large")

    async def decode(self, content: bytes, deadline: Deadline, photos: bool = False) -> Prepared:
        """The pixels of an encoded picture; `photos`: for the photo network, except images of Fashion-MNIST.

        Raises PictureError, DeadlineExceeded, Overloaded.
        """
        if len(content) <= SMALL_BYTES and not is_avif(content):
            picture = open_picture(content, *self._limits)
            if picture.size == (SIDE, SIDE) and decode_seconds(picture) <= SMALL_SECONDS:
                return self._decode(picture, photos)
            del picture  # a picture that waits is not kept open
        loop, submitted = asyncio.get_running_loop(), time.monotonic()
        result = await loop.run_in_executor(
            self._threads, self._decode_unless_large, content, deadline, submitted, photos
        )
        if not isinstance(result, float):
            return result
        async with self._queue.turn(result, deadline):
            self._begin(deadline, submitted)
            begin = time.monotonic()
            try:
                prepared = await loop.run_in_executor(self._process_thread, self._process.decode, content, photos)
            except DecoderStopped as error:
                raise Overloaded(str(error)) from error
            self._metrics.count_decoded(time.monotonic() - begin)
            return prepared

    def _decode_unless_large(
        self, content: bytes, deadline: Deadline, submitted: float, photos: bool
    ) -> Prepared | float:
        """The pixels, or of a large picture the seconds that decoding it may take."""
        deadline.check()
        picture = open_picture(content, *self._limits)
        if is_large(picture):
            return decode_seconds(picture)
        self._begin(deadline, submitted)
        return self._decode(picture, photos)

    def _begin(self, deadline: Deadline, submitted: float) -> None:
        self._metrics.decode_queue_seconds.observe(time.monotonic() - submitted)
        deadline.check()

    def _decode(self, picture: ImageFile, photos: bool) -> Prepared:
        begin = time.monotonic()
        prepared = preprocess(picture, photos)
        self._metrics.count_decoded(time.monotonic() - begin)
        return prepared

    def close(self) -> None:
        """Waits for the threads and the process to end."""
        self._threads.shutdown()
        self._process_thread.shutdown()
        self._process.close()


def is_large(picture: ImageFile) -> bool:
    """Whether a picture is decoded in the process: also every AVIF, since Pillow holds the global lock for it."""
    return decode_seconds(picture) > LARGE_SECONDS or picture.format == "AVIF"
