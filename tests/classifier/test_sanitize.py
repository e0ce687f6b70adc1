"""Sanitizing a file does not change its pixels, and limits the time of hostile files."""

import io
import random
import struct
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from classifier.conversion import TURNS
from classifier.jpeg import UnreadableJpeg, trim_jpeg
from classifier.networks import SIDE
from classifier.picture import BrokenPicture, PictureError, PictureTooLarge
from classifier.sanitize import TooManyParts, orientation, trim_gif, trim_png
from tests.classifier.hostile import (
    GIF,
    GIF_FRAME,
    JPEG,
    MAX_BYTES,
    PNG,
    bmp_rle,
    exif,
    gif_around,
    jpeg_around,
    png_around,
    segment,
)
from tests.classifier.reading import read_pixels
from tests.classifier.test_hostile_pictures import FUZZ_LIMIT, PNG_SIGNATURE, SAMPLES, chunk, encode

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::PIL.Image.DecompressionBombWarning")
FUZZED = settings(max_examples=200, deadline=None, derandomize=True, database=None)
MAX_SECONDS = 2.0  # of processor time; each takes up to 0.2 s, and without sanitizing up to 30 s
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8))
TURNED = Image.Exif()
TURNED[0x112], TURNED[0x10E] = 6, "words" * 3_000
OPTIONS = {"exif": TURNED, "icc_profile": random.Random(0).randbytes(200_000)}


def split_idat(content: bytes, size: int) -> bytes:
    """The PNG with at most `size` bytes in each IDAT chunk."""
    at, kept, pixels = len(PNG_SIGNATURE), content[: len(PNG_SIGNATURE)], b""
    while at < len(content):
        length, kind = struct.unpack_from(">I4s", content, at)
        if kind == b"IDAT":
            pixels += content[at + 8 : at + 8 + length]
        elif kind != b"IEND":
            kept += content[at : at + 12 + length]
        at += 12 + length
    chunks = b"".join(chunk(b"IDAT", pixels[i : i + size]) for i in range(0, len(pixels), size))
    return kept + chunks + chunk(b"IEND")


@pytest.mark.parametrize("size", [8192, 1024, 256])
def test_a_large_png_is_read_with_chunks_of_any_usual_size(size: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1800, 1800, 3), dtype=np.uint8)
    content = split_idat(encode(Image.fromarray(noise), "PNG", compress_level=1), size)
    assert 9 * 2**20 < len(content) < 10.5 * 2**20
    assert len(trim_png(content)[0]) < len(content)
    read_pixels(content)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("video", [0, 3_000_000])
def test_a_jpeg_with_metadata_and_a_video_as_from_a_phone_is_read(progressive: bool, video: int) -> None:
    drawing = Image.linear_gradient("L").resize((1200, 900))
    plain = encode(drawing, "JPEG", progressive=progressive)
    with_metadata = encode(drawing, "JPEG", progressive=progressive, **OPTIONS) + random.Random(1).randbytes(video)
    trimmed = trim_jpeg(with_metadata)
    assert len(trimmed.content) <= len(plain) + 100
    assert orientation(trimmed.exif) == 6
    turned = encode(drawing.transpose(Image.Transpose.ROTATE_270), "JPEG", progressive=progressive)
    np.testing.assert_allclose(read_pixels(with_metadata).astype(int), read_pixels(turned).astype(int), atol=3)


@pytest.mark.parametrize("value", range(10))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_the_orientation_is_the_same_with_and_without_sanitizing(kind: str, value: int) -> None:
    turned = Image.Exif()
    turned[0x112] = value
    small = encode(NOISE.resize((40, 30)), kind, exif=turned)
    turn = TURNS.get(value)
    upright = NOISE.resize((40, 30)) if turn is None else NOISE.resize((40, 30)).transpose(turn)
    large = {"PNG": png_after(small), "JPEG": jpeg_after(small), "WEBP": small}[kind]
    assert np.array_equal(read_pixels(small), read_pixels(large))
    if kind == "PNG":
        assert np.array_equal(read_pixels(small), read_pixels(encode(upright, kind)))


def png_after(content: bytes) -> bytes:
    return content[:33] + chunk(b"teXt", bytes(8192)) + content[33:]


def jpeg_after(content: bytes) -> bytes:
    return content[:2] + segment(0xFE, bytes(8192)) + content[2:]


@pytest.mark.parametrize("order", ["MM", "II"])
def test_the_orientation_is_read_in_both_byte_orders(order: str) -> None:
    sign = ">" if order == "MM" else "<"
    data = order.encode() + struct.pack(f"{sign}HIHHHIHHI", 42, 8, 1, 0x112, 3, 1, 8, 0, 0)
    assert orientation(data) == orientation(b"Exif\0\0" + data) == 8


def test_a_sanitized_gif_has_its_transparency_and_no_comments() -> None:
    picture = NOISE.quantize(16)
    content = encode(picture, "GIF", transparency=3, comment=b"words" * 5_000)
    trimmed = trim_gif(content)
    assert b"words" not in trimmed
    with Image.open(io.BytesIO(content)) as one, Image.open(io.BytesIO(trimmed)) as other:
        assert np.array_equal(np.asarray(one.convert("RGBA")), np.asarray(other.convert("RGBA")))


def test_a_bmp_with_run_length_encoding_is_read() -> None:
    rows = b"".join(b"\x05\x07\x03\x09" * 80 + b"\0\0" for _ in range(480)) + b"\0\1"
    assert read_pixels(bmp_rle(640, 480, rows)).shape == (SIDE, SIDE)


HOSTILE: dict[str, tuple[Callable[[], bytes], type[PictureError] | None]] = {
    "PNG chunks at their limit": (lambda: png_around(chunk(b"abCd", bytes(200))), None),
    "PNG chunks": (lambda: png_around(chunk(b"abCd")), PictureTooLarge),
    "empty PNG pixels": (lambda: png_around(chunk(b"IDAT")), PictureTooLarge),
    "an eXIf bomb": (lambda: png_around(chunk(b"eXIf", exif(60_000, MAX_BYTES // 3)), size=MAX_BYTES // 2), None),
    "JPEG segments": (lambda: jpeg_around(segment(0xE5, b"")), PictureTooLarge),
    "Exif segments": (lambda: jpeg_around(segment(0xE1, b"Exif\0\0" + bytes(150))), PictureTooLarge),
    "Photoshop blocks": (
        lambda: jpeg_around(segment(0xED, b"Photoshop 3.0\0" + b"8BIM\1\1\0\0\0\0\0\0" * 5_400)),
        None,
    ),
    "quantisation tables": (lambda: jpeg_around(segment(0xDB, (b"\0" + b"\1" * 64) * 1_000)), PictureTooLarge),
    "frames": (lambda: jpeg_around(segment(0xC0, b"\x08\0\x40\0\x40\3" + b"\1\x11\0" * 21_000)), PictureTooLarge),
    "JPEG fill bytes": (lambda: jpeg_around(b"\xff"), None),
    "GIF blocks": (lambda: gif_around(b"\1a", before=b"!\xff", after=b"\0"), PictureTooLarge),
    "GIF extensions": (lambda: gif_around(b"!\xfe\1a\0"), PictureTooLarge),
    "GIF junk": (lambda: gif_around(b"a"), None),
    "BMP runs of nothing": (lambda: bmp_rle(300, 300, b"\xff\5" * 5 + b"\1\5" * (MAX_BYTES // 2)), BrokenPicture),
    "BMP rows of one pixel": (lambda: bmp_rle(1_000, 800, b"\1\5\0\0" * 800), None),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_or_read_quickly(name: str) -> None:
    make, expected = HOSTILE[name]
    content = make()
    begin = time.process_time()
    with pytest.raises(expected) if expected else nullcontext():
        read_pixels(content)
    assert time.process_time() - begin < MAX_SECONDS


@pytest.mark.parametrize(
    ("trim", "start"),
    [(trim_png, PNG[:33]), (trim_jpeg, JPEG[:2]), (trim_gif, GIF[:GIF_FRAME])],
    ids=["png", "jpeg", "gif"],
)
@FUZZED
@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_raise_only_the_documented_exceptions(
    trim: Callable[[bytes], object], start: bytes, content: bytes, framed: bool
) -> None:
    with suppress(TooManyParts, UnreadableJpeg, ValueError, LookupError, struct.error):
        trim(start + content + (start if framed else b""))
    with suppress(struct.error):
        orientation(content)


@FUZZED
@given(st.sampled_from(sorted(SAMPLES)), st.data())
def test_a_mutated_picture_raises_only_picture_errors(name: str, data: st.DataObject) -> None:
    content = bytearray(SAMPLES[name])
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content)))
        content[at : at + data.draw(st.integers(0, 8))] = data.draw(
            st.one_of(
                st.binary(max_size=8), st.sampled_from([b"\xff\xda", b"\xff\xd9", b"IDAT", b"IEND", b"!\xf9", b","])
            )
        )
    with suppress(PictureError):
        assert read_pixels(bytes(content), FUZZ_LIMIT, FUZZ_LIMIT).shape == (SIDE, SIDE)
