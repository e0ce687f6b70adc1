"""Decompression bombs and disguised files against the running app with its default limits."""

import io
import resource
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

from service.settings import Settings
from tests.classifier.hostile import MAX_BYTES, bmp_rle, exif, gif_around, jpeg_around, png_around, segment
from tests.classifier.test_avif import OPAQUE, with_size
from tests.classifier.test_hostile_pictures import chunk, encode, jpeg, png
from tests.service.conftest import SHOE, serving

SECONDS = 10.0  # of processor time; each takes under one on a slow core
MEBIBYTES = 500  # more than before, for all of them
NO_PICTURE = (415, "The file is not a picture of an accepted format: PNG, JPEG, WebP, AVIF, GIF, BMP.")
BOMB = zlib.compress(bytes(2**20 - 8), 9)


def gif_of_many_frames() -> bytes:
    frame = b",\0\0\0\0\1\0\1\0\0\x02\x02\x44\x01\0"
    return b"GIF89a\1\0\1\0\x80\0\0\0\0\0\xff\xff\xff" + frame * 10_000 + b";"


def webp_of(side: int) -> bytes:
    return encode(Image.new("L", (side, side)), "WEBP", lossless=True, method=0)


def too_large(width: int, height: int, limit: int) -> tuple[int, str]:
    return 413, f"The picture is {width}×{height} = {width * height:,} pixels, over the limit of {limit:,}."


BOMBS: dict[str, tuple[Callable[[], bytes], tuple[int, str]]] = {
    "a PNG of 19,000x19,000": (lambda: png(19_000, 19_000), too_large(19_000, 19_000, 16_000_000)),
    "a WebP of 8,000x8,000": (lambda: webp_of(8_000), too_large(8_000, 8_000, 16_000_000)),
    "a JPEG of 65,535x65,535": (lambda: jpeg(65_535, 65_535), too_large(65_535, 65_535, 52_000_000)),
    "a compressed BMP of 4,000x4,000": (lambda: bmp_rle(4_000, 4_000, b""), too_large(4_000, 4_000, 800_000)),
    "a GIF of 10,000 frames": (gif_of_many_frames, (200, "")),
    "zTXt bombs": (lambda: png_around(chunk(b"zTXt", b"a\0\0" + BOMB)), (200, "")),
    "iCCP bombs": (lambda: png_around(chunk(b"iCCP", b"a\0\0" + BOMB)), (200, "")),
    "an eXIf bomb": (lambda: png_around(chunk(b"eXIf", exif(20_000, MAX_BYTES // 3)), size=MAX_BYTES // 2), (200, "")),
    "an Exif bomb": (lambda: jpeg_around(segment(0xE1, b"Exif\0\0" + exif(5_000, 65_000)), size=200_000), (200, "")),
    "tiny PNG chunks": (
        lambda: png_around(chunk(b"abCd")),
        (413, "The PNG picture has over 50,000 chunks, the limit."),
    ),
    "tiny JPEG segments": (
        lambda: jpeg_around(segment(0xFE, b"")),
        (413, "The JPEG picture has over 500 segments, the limit."),
    ),
    "JPEG junk": (lambda: jpeg_around(b"\xff"), (200, "")),
    "tiny GIF blocks": (
        lambda: gif_around(b"\1a", before=b"!\xfe", after=b"\0"),
        (413, "The GIF picture has over 100,000 blocks before its first frame, the limit."),
    ),
    "a polyglot that begins like HTML": (lambda: b"<html>" + SHOE.read_bytes(), NO_PICTURE),
    "a polyglot that is a PNG and a ZIP": (lambda: SHOE.read_bytes() + b"PK\x05\x06" + bytes(18), (200, "")),
    "a PNG that goes on as a script": (lambda: b"\x89PNG\r\n\x1a\n<script>", (400, "")),
    "an AVIF of 16,000x16,000": (
        lambda: with_size(OPAQUE, (16_000, 16_000)),
        too_large(16_000, 16_000, 16_000_000),
    ),
    "a WebP of 34 bytes": (
        lambda: encode(Image.new("RGBA", (4_000, 4_000)), "WEBP", lossless=True, method=0),
        (413, "The picture is 4000×4000 = 16,000,000 pixels, over the limit of "),
    ),
    "a PNG one pixel wide": (
        lambda: png(1, 16_000_000, colour=6),
        (413, "The picture is 1×16000000 pixels, over the limit of 65,535 for each side."),
    ),
    "texts in a small PNG": (lambda: png_around(chunk(b"iTXt", b"a\0\1\0\0\0" + BOMB), 8_000), (200, "")),
    "an SVG": (
        lambda: b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>',
        (415, "This is an SVG"),
    ),
    "a FITS": (lambda: b"SIMPLE  =                    T".ljust(2880), (415, "This is a FITS picture")),
    "an EPS": (
        lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) run",
        (415, "This is a PostScript"),
    ),
    "a TIFF": (lambda: encode(Image.new("L", (28, 28)), "TIFF"), (415, "This is a TIFF picture")),
    "an ICO": (lambda: encode(Image.new("L", (32, 32)), "ICO"), (415, "This is an ICO icon")),
    "a PDF": (lambda: b"%PDF-1.7\n" + bytes(100), (415, "This is a PDF document")),
}


@pytest.fixture(scope="module")
def shipped(tiny_checkpoint: Path) -> Iterator[httpx.Client]:
    with serving(Settings(model=tiny_checkpoint, max_wait_seconds=60)) as client:
        yield client


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_answered_within_limits(shipped: httpx.Client, name: str) -> None:
    make, (status, sentence) = BOMBS[name]
    content = make()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin = time.process_time()  # of client and server
    answer = shipped.post("/predict", files={"file": ("shoe.png", content, "image/png")})
    assert time.process_time() - begin < SECONDS
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10 < MEBIBYTES
    assert answer.status_code == status, answer.text
    assert answer.json().get("detail", "").startswith(sentence)
    assert shipped.get("/health").status_code == 200


def test_a_path_as_file_name_writes_nothing(shipped: httpx.Client, tmp_path: Path) -> None:
    for name in (str(tmp_path / "x.png"), "../../x.png", "C:\\x.png", "x\0.png", "a" * 1_000):
        assert shipped.post("/predict", files={"file": (name, SHOE.read_bytes())}).status_code == 200
    assert not list(tmp_path.iterdir())


def test_headers_of_a_part_are_short(shipped: httpx.Client) -> None:
    form = b'--x\r\nContent-Disposition: form-data; name="file"\r\n' + b"A: b\r\n" * 1_000 + b"\r\npicture\r\n--x--\r\n"
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = shipped.post("/predict", content=form, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["detail"].startswith("The form is malformed: no empty line ends the header of a part within ")


def test_bytes_are_counted_before_anything_is_parsed(shipped: httpx.Client) -> None:
    def endless() -> Iterator[bytes]:
        yield b"--x\r\n"
        for _ in range(200):
            yield bytes(2**16)

    for content_type in ("multipart/form-data; boundary=x", "image/png"):
        answer = shipped.post("/predict", content=endless(), headers={"Content-Type": content_type})
        assert answer.status_code == 413
        assert answer.json()["detail"].endswith("the limit for pictures is 10,485,760; send smaller ones.")
    answer = shipped.post("/predict", files={"file": io.BytesIO(bytes(10 * 2**20 + 1))})
    sentence = "The picture has 10,485,761 bytes, over the limit of 10,485,760; send a smaller one."
    assert answer.json()["detail"] == sentence
