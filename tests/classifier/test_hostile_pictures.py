"""Damaged, foreign and hostile pictures: each raises the right PictureError and no other exception."""

import io
import random
import struct
import zlib
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from PIL import Image

from classifier.networks import SIDE
from classifier.picture import (
    MAX_JPEG_PIXELS,
    MAX_PIXELS,
    BrokenPicture,
    PictureError,
    PictureTooLarge,
    UnsupportedPicture,
)
from tests.classifier.reading import read_pixels

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::PIL.Image.DecompressionBombWarning")
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
FUZZ_LIMIT = 1_000_000  # pixels; a mutated header may claim many


def encode(picture: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def samples() -> dict[str, bytes]:
    """One picture of each variant of a format that has a decoder of its own."""
    rgb = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8))
    grey, palette, cut_out = rgb.convert("L"), rgb.quantize(16), rgb.convert("RGBA")
    cut_out.putalpha(grey)
    exif = Image.Exif()
    exif[0x112], exif[0x10E], exif[0x8769] = 6, "words", {0x9000: b"0230"}
    frames = {"save_all": True, "append_images": [rgb.rotate(180)]}
    return {
        "png": encode(rgb, "PNG"),
        "png-exif": encode(cut_out, "PNG", exif=exif),
        "png-palette": encode(palette, "PNG", transparency=3),
        "png-16-bit": encode(Image.fromarray(np.asarray(grey).astype(np.uint16) * 256), "PNG"),
        "png-animated": encode(rgb, "PNG", **frames),
        "jpeg": encode(rgb, "JPEG", exif=exif),
        "jpeg-progressive": encode(rgb, "JPEG", progressive=True),
        "jpeg-cmyk": encode(rgb.convert("CMYK"), "JPEG"),
        "webp": encode(rgb, "WEBP"),
        "webp-lossless": encode(rgb, "WEBP", lossless=True),
        "webp-extended": encode(cut_out, "WEBP", exif=exif),
        "webp-animated": encode(rgb, "WEBP", **frames),
        "gif": encode(palette, "GIF", transparency=3),
        "gif-animated": encode(palette, "GIF", **frames),
        "avif": encode(rgb, "AVIF", exif=exif),
        "avif-alpha": encode(cut_out, "AVIF"),
        "avif-animated": encode(rgb, "AVIF", **frames),
        "bmp": encode(rgb, "BMP"),
        "bmp-palette": encode(palette, "BMP"),
    }


SAMPLES = samples()


def chunk(kind: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, colour: int = 0) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0))
    return PNG_SIGNATURE + header + chunk(b"IDAT") + chunk(b"IEND")


def png_with_right_checksums(content: bytearray) -> bytes:
    """The PNG with correct checksums, as far as its chunks can be parsed."""
    at, repaired = len(PNG_SIGNATURE), content.copy()
    while at + 8 <= len(repaired):
        end = at + 8 + int.from_bytes(repaired[at : at + 4], "big")
        if end + 4 > len(repaired):
            break
        repaired[end : end + 4] = struct.pack(">I", zlib.crc32(repaired[at + 4 : end]))
        at = end + 4
    return bytes(repaired)


def webp(kind: bytes, content: bytes) -> bytes:
    body = b"WEBP" + kind + struct.pack("<I", len(content)) + content
    return b"RIFF" + struct.pack("<I", len(body)) + body


def gif(width: int, height: int) -> bytes:
    frame = b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\0"
    return b"GIF89a" + struct.pack("<HH", width, height) + b"\0\0\0" + frame + b";"


def bmp(width: int, height: int) -> bytes:
    return b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)


def jpeg(width: int, height: int) -> bytes:
    start_of_frame = b"\xff\xc0" + struct.pack(">HBHHB", 11, 8, height, width, 1) + b"\x01\x11\0"
    return b"\xff\xd8" + start_of_frame + b"\xff\xda\0\x08\x01\x01\0\0\x3f\0" + b"\xff\xd9"


@pytest.mark.parametrize(
    ("content", "width", "height", "limit"),
    [
        (png(2**31 - 1, 2**31 - 1), 2**31 - 1, 2**31 - 1, MAX_PIXELS),
        (png(16_000_001, 1), 16_000_001, 1, MAX_PIXELS),
        (gif(65_535, 60_000), 65_535, 60_000, MAX_PIXELS),
        (bmp(20_000, 30_000), 20_000, 30_000, MAX_PIXELS),
        (bmp(20_000, -30_000), 20_000, 30_000, MAX_PIXELS),
        (jpeg(65_000, 60_000), 65_000, 60_000, MAX_JPEG_PIXELS),
        (webp(b"VP8 ", b"\x10\0\0\x9d\x01\x2a" + struct.pack("<HH", 16_383, 9_000)), 16_383, 9_000, MAX_PIXELS),
        (webp(b"VP8L", b"\x2f" + struct.pack("<I", 8_999 << 14 | 16_383)), 16_384, 9_000, MAX_PIXELS),
        (webp(b"VP8X", b"\0" * 4 + b"\xff" * 3 + b"\xff\0\0"), 2**24, 256, MAX_PIXELS),
    ],
    ids=["png", "png-wide", "gif", "bmp", "bmp-top-down", "jpeg", "webp", "webp-lossless", "webp-extended"],
)
def test_the_pixel_limit_refuses_a_decompression_bomb_by_its_header(
    content: bytes, width: int, height: int, limit: int
) -> None:
    with pytest.raises(PictureTooLarge) as caught:
        read_pixels(content)
    sentence = f"The picture is {width}×{height} = {width * height:,} pixels, over the limit of {limit:,}."
    assert str(caught.value) == sentence


def test_a_gif_frame_larger_than_its_canvas_is_refused() -> None:
    grown = gif(10, 10).replace(struct.pack("<HHHH", 0, 0, 1, 1), struct.pack("<HHHH", 0, 0, 65_535, 65_535))
    with pytest.raises(PictureTooLarge, match="16,000,000"):
        read_pixels(grown)


@pytest.mark.parametrize(
    "content",
    [
        b"shoe",
        b"\0",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        encode(Image.new("L", (SIDE, SIDE)), "TIFF"),
        encode(Image.new("L", (SIDE, SIDE)), "PPM"),
        b"RIFF\x24\0\0\0WAVEfmt " + bytes(16),
        b"RIFF",
        b" " + SAMPLES["png"],
        SAMPLES["png"][:7],
    ],
    ids=["text", "zero", "svg", "tiff", "ppm", "wav", "riff", "space-png", "half-signature"],
)
def test_other_files_are_unsupported(content: bytes) -> None:
    with pytest.raises(UnsupportedPicture, match=r"picture|send it as PNG"):
        read_pixels(content)


@pytest.mark.parametrize(
    "content",
    [
        *(
            PNG_SIGNATURE,
            b"\xff\xd8\xff",
            b"GIF89a",
            b"BM",
            b"\0\0\0\x1cftypavif",
            b"RIFF\0\0\0\0WEBP",
            b"RIFF\0\0\0\0WEBPVP8X",
        ),
        *(png(28, 28), png(28, 28, colour=3), png(0, 0), jpeg(0, 0), bmp(0, 0), webp(b"ALPH", bytes(40))),
    ],
)
def test_a_picture_that_ends_after_its_header_is_broken(content: bytes) -> None:
    with pytest.raises(BrokenPicture):
        read_pixels(content)


def test_a_palette_picture_without_palette_is_broken() -> None:
    pixels = zlib.compress(bytes(29 * SIDE))
    with pytest.raises(BrokenPicture):
        read_pixels(png(SIDE, SIDE, colour=3).replace(chunk(b"IDAT"), chunk(b"IDAT", pixels)))


@pytest.mark.parametrize("name", SAMPLES)
def test_a_truncated_picture_is_broken_or_decodes(name: str) -> None:
    content = SAMPLES[name]
    read_pixels(content)
    for length in range(16, len(content), max(1, len(content) // 300)):
        with suppress(BrokenPicture):
            read_pixels(content[:length])
    with pytest.raises(BrokenPicture):
        read_pixels(content[: len(content) // 5])


@pytest.mark.parametrize("name", SAMPLES)
def test_a_picture_with_changed_bytes_decodes_or_raises_a_picture_error(name: str) -> None:
    generator = random.Random(0)
    for _ in range(300):
        changed = bytearray(SAMPLES[name])
        for _ in range(generator.choice((1, 2, 8))):
            at = min(generator.randrange(len(changed)), generator.randrange(len(changed)))  # more often in the header
            length = generator.choice((1, 1, 1, 4))
            changed[at : at + length] = generator.choice(
                (generator.randbytes(length), b"\xff" * length, bytes(length), b"", generator.randbytes(2 * length))
            )
        for content in (bytes(changed), png_with_right_checksums(changed) if "png" in name else b"\0"):
            with suppress(PictureError):
                assert read_pixels(content, FUZZ_LIMIT, FUZZ_LIMIT).shape == (SIDE, SIDE)
