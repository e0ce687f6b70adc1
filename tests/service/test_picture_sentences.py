"""The sentences about pictures in docs/http-api.md, each provoked by a file that is sent to the app."""

import base64
import os
import signal
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from PIL import Image

from service.settings import Settings
from tests.classifier.hostile import gif_around, jpeg_around, png_around, segment
from tests.classifier.test_avif import OPAQUE, with_size
from tests.classifier.test_hostile_pictures import chunk, encode, gif, png
from tests.classifier.test_jpeg import BASELINE, small_scans
from tests.service.conftest import SHOE, serving
from tests.service.test_error_sentences import matches, of, rows

PICTURE = SHOE.read_bytes()
HEADING = "### Sentences about pictures\n"


def changed(content: bytes, at: int, value: bytes) -> bytes:
    return content[:at] + value + content[at + len(value) :]


def bmp(at: int, value: bytes) -> bytes:
    return changed(encode(Image.new("RGB", (28, 28)), "BMP"), at, value)


def frame(at: int, value: bytes) -> bytes:
    """A JPEG with another byte in its start of frame."""
    return changed(BASELINE, BASELINE.index(b"\xff\xc0") + at, value)


REFUSED: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "header": lambda: PICTURE[:8] + b"junk",
    "damaged": lambda: PICTURE[:200],
    "bmp header": lambda: bmp(14, struct.pack("<I", 16)),
    "bmp bits": lambda: bmp(28, struct.pack("<H", 64)),
    "bmp palette": lambda: bmp(28, struct.pack("<HI4x4x4xI", 8, 0, 300)),
    "lossless jpeg": lambda: frame(1, b"\xc3"),
    "jpeg of 12 bits": lambda: frame(4, b"\x0c"),
    "jpeg of 2 components": lambda: frame(9, b"\2"),
    "pixels": lambda: png(19_000, 19_000),
    "frame": lambda: gif(10, 10).replace(struct.pack("<HHHH", 0, 0, 1, 1), struct.pack("<HHHH", 0, 0, 65_535, 65_535)),
    "side": lambda: png(1, 70_000),
    "small webp": lambda: encode(Image.new("RGBA", (3_000, 2_500)), "WEBP", lossless=True, method=0),
    "avif": lambda: with_size(OPAQUE, (4_000, 4_000)),
    "avif tiles": lambda: with_size(encode(Image.new("RGB", (6_000, 4_000)), "AVIF", speed=10), (100, 100)),
    "scans": lambda: small_scans(16, 30),
    "blocks": lambda: small_scans(4_000, 24),
    "coefficients": lambda: small_scans(4_000, 4),
    "chunks": lambda: png_around(chunk(b"abCd")),
    "segments": lambda: jpeg_around(segment(0xFE, b"")),
    "tables": lambda: jpeg_around(segment(0xC4, bytes(60_000))),
    "blocks of a gif": lambda: gif_around(b"\1a", before=b"!\xfe", after=b"\0"),
    "line ends": lambda: PICTURE.replace(b"\r\n", b"").replace(b"\n", b""),
    "heic": lambda: b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
    "raw": lambda: b"\0\0\0\x18ftypcrx \0\0\0\1crx isom",
    "video": lambda: b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom",
    "tiff": lambda: encode(Image.new("L", (28, 28)), "TIFF"),
    "pnm": lambda: b"P5 1 1 255\na",
    "zip": lambda: b"PK\3\4" + bytes(30),
    "svg": lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "base64": lambda: base64.b64encode(PICTURE),
    "address": lambda: b"https://shop.example/shoe.png",
    "json": lambda: b'{"file": "shoe.png"}',
    "text": lambda: b"shoe.png",
    "unknown": lambda: b"\xff\xfa\0\1\2\3" * 9,
}


@pytest.fixture(scope="module")
def client(tiny_checkpoint: Path) -> Iterator[httpx.Client]:
    with serving(Settings(model=tiny_checkpoint, max_wait_seconds=60)) as client:
        yield client


def killed_decoder(client: httpx.Client, number: int) -> httpx.Response:
    """The answer to a large picture whose decoding process gets this signal while it works."""
    large = encode(Image.new("P", (4_000, 4_000)), "GIF")
    assert client.post("/predict", content=large).status_code == 200
    children = (int(pid) for file in Path("/proc/self/task").glob("*/children") for pid in file.read_text().split())
    decoders = [pid for pid in children if b"decode_process" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    decoder = max(decoders)  # the newest; other apps of this test run may have theirs
    os.kill(decoder, signal.SIGSTOP)
    threading.Timer(0.2, os.kill, (decoder, number)).start()
    threading.Timer(0.3, resume, (decoder,)).start()
    return client.post("/predict", content=large)


def resume(process: int) -> None:
    with suppress(ProcessLookupError):  # SIGKILL ends a stopped process at once
        os.kill(process, signal.SIGCONT)


def test_every_sentence_about_a_picture_is_documented_and_can_be_provoked(client: httpx.Client) -> None:
    answers = {name: of(client.post("/predict", files={"file": make()})) for name, make in REFUSED.items()}
    answers["crashed"] = of(killed_decoder(client, signal.SIGSEGV))
    answers["stopped"] = of(killed_decoder(client, signal.SIGKILL))
    documented = rows(HEADING)
    assert not {name: answer for name, answer in answers.items() if not any(matches(answer, row) for row in documented)}
    assert not [row for row in documented if not any(matches(answer, row) for answer in answers.values())]
