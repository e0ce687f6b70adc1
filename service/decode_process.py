"""A process that decodes large pictures, one after the other: bytes on standard input -> pixels on standard output.

Pillow holds Python's global lock while libavif decodes, which would stop the event loop. The process has a lower
priority, and limits of memory and time; a decoder that crashes ends it and not the service.
"""

import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import IO

import numpy as np

from classifier import picture
from classifier.picture import BrokenPicture, PictureError, PictureTooLarge
from classifier.pixels import PHOTO_SHAPE, SHAPE, SIDE
from classifier.preprocessing import Prepared, prepare

REQUEST = struct.Struct(">3Q?")  # bytes of the picture, its limits of pixels, and whether it is for the photo network
ANSWER = struct.Struct(">BQ")  # an index in KINDS, and the bytes that follow
KINDS: tuple[type[PictureError] | None, ...] = (None, BrokenPicture, PictureTooLarge, picture.UnsupportedPicture)
MAX_SECONDS = 10.0  # for one picture, which takes up to 1 s of a core; the process may get little of one
MEMORY_BYTES = 500 * 2**20  # over that of an idle process; a picture takes up to 300 MB
NICENESS = 10  # the event loop and smaller pictures come first
# With glibc's own threshold, buffers that were freed stay with the process: 26 MB more for an AVIF of 8 megapixels.
ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": str(2**20)}
PROGRAM = "import sys; sys.path[:] = {path!r}; from service.decode_process import main; main()"


class DecoderStopped(Exception):
    """The process was stopped from outside; one sentence for clients."""


class DecodeProcess:
    """Starts the process when it is first needed, and again after it ended. Not for several threads at once."""

    def __init__(self, max_pixels: int, max_jpeg_pixels: int) -> None:
        self._limits = max_pixels, max_jpeg_pixels
        self._process: subprocess.Popen[bytes] | None = None

    def decode(self, content: bytes, photos: bool = False) -> Prepared:
        """The pixels of an encoded picture. Raises PictureError, DecoderStopped."""
        if self._process and self._process.poll() is not None:  # it was killed while idle
            self.close()
        process = self._process = self._process or self._start()
        assert process.stdin
        assert process.stdout
        killer = threading.Timer(MAX_SECONDS, process.kill)
        killer.start()
        begin = time.monotonic()
        try:
            process.stdin.write(REQUEST.pack(len(content), *self._limits, photos))
            process.stdin.write(content)
            process.stdin.flush()
            kind, size = ANSWER.unpack(process.stdout.read(ANSWER.size))
            answer = process.stdout.read(size)
        except (OSError, struct.error) as error:  # it ended
            with suppress(subprocess.TimeoutExpired):
                process.wait(1)
            killed = process.returncode == -signal.SIGKILL
            self.close(kill=True)
            if time.monotonic() - begin >= MAX_SECONDS:
                sentence = f"Decoding the picture took over {MAX_SECONDS:g} s, the limit; send it smaller."
                raise PictureTooLarge(sentence) from error
            if killed:  # from outside, as by the kernel when memory is short
                raise DecoderStopped("The decoder of the picture was stopped; try again later.") from error
            raise BrokenPicture("The picture is damaged: its decoder failed.") from error
        finally:
            killer.cancel()
        if error_type := KINDS[kind]:
            raise error_type(answer.decode())
        facts, _, levels = answer.partition(b"\n")
        pixels = np.frombuffer(bytearray(levels), np.uint8)
        return Prepared(pixels.reshape(PHOTO_SHAPE if len(pixels) > SIDE**2 else SHAPE), json.loads(facts))

    def _start(self) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [sys.executable, "-c", PROGRAM.format(path=sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **ENVIRONMENT},
        )

    def close(self, kill: bool = False) -> None:
        """Ends the process, which may run no more afterwards."""
        process, self._process = self._process, None
        if process is None:
            return
        if kill:
            process.kill()
        with suppress(OSError):
            process.communicate()


def main() -> None:
    """Answers requests until standard input ends, as it does when the service ends in any way."""
    for number in (signal.SIGINT, signal.SIGTERM):  # both may reach the whole group of processes
        signal.signal(number, signal.SIG_IGN)
    warnings.simplefilter("ignore")
    restrict()
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    while len(head := requests.read(REQUEST.size)) == REQUEST.size:
        answer(requests, answers, *REQUEST.unpack(head))


def answer(
    requests: IO[bytes], answers: IO[bytes], size: int, max_pixels: int, max_jpeg_pixels: int, photos: bool
) -> None:
    content = requests.read(size)
    kind, result = 0, b""
    try:
        prepared = prepare(content, max_pixels, max_jpeg_pixels, photos)
        result = json.dumps(prepared.input).encode() + b"\n" + prepared.pixels.tobytes()
    except PictureError as error:
        kind, result = KINDS.index(type(error)), str(error).encode()
    answers.write(ANSWER.pack(kind, len(result)) + result)
    answers.flush()


def restrict() -> None:
    """Lowers the priority of this process, and limits its memory, where the system can."""
    if hasattr(os, "nice"):
        os.nice(NICENESS)
    with suppress(ImportError, OSError, ValueError):
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
