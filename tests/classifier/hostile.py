"""Makes hostile files: a picture of 64×64 pixels between as many other bytes as an upload may have."""

import struct

from PIL import Image

from tests.classifier.test_hostile_pictures import PNG_SIGNATURE, chunk, encode

MAX_BYTES = 10 * 2**20 - 2**10  # just under the service's limit of 10 MiB
SMALL = Image.linear_gradient("L").resize((64, 64))
PNG, JPEG, GIF = (encode(SMALL, kind) for kind in ("PNG", "JPEG", "GIF"))
GIF_FRAME = 13 + (3 << (GIF[10] & 7) + 1)  # after the header and the palette
RLE8 = 1


def around(before: bytes, unit: bytes, after: bytes, size: int) -> bytes:
    """`unit`, repeated between `before` and `after` to about `size` bytes."""
    return before + unit * ((size - len(before) - len(after)) // len(unit)) + after


def png_around(unit: bytes, size: int = MAX_BYTES) -> bytes:
    """A PNG with `unit` repeated between its header and its pixels."""
    header = len(PNG_SIGNATURE) + len(chunk(b"IHDR", bytes(13)))
    return around(PNG[:header], unit, PNG[header:], size)


def jpeg_around(unit: bytes, size: int = MAX_BYTES) -> bytes:
    """A JPEG with `unit` repeated before its pixels."""
    return around(JPEG[:2], unit, JPEG[2:], size)


def gif_around(unit: bytes, before: bytes = b"", after: bytes = b"", size: int = MAX_BYTES) -> bytes:
    """A GIF with `unit` repeated before its frame, between `before` and `after`."""
    frame = GIF.index(b",", GIF_FRAME)
    return around(GIF[:frame] + before, unit, after + GIF[frame:], size)


def segment(code: int, content: bytes) -> bytes:
    return bytes((0xFF, code)) + struct.pack(">H", len(content) + 2) + content


def exif(entries: int, size: int) -> bytes:
    """EXIF data of `size` bytes in which each entry claims nearly all of them as its value."""
    directory = b"".join(struct.pack(">HHII", tag, 1, size - 100, 8) for tag in range(1000, 1000 + entries))
    return (b"MM\0\x2a\0\0\0\x08" + struct.pack(">H", entries) + directory).ljust(size, b"\0")


def bmp_rle(width: int, height: int, runs: bytes) -> bytes:
    """A BMP with run-length encoded pixels."""
    palette = b"".join(bytes((i, 0, 255 - i, 0)) for i in range(256))
    start = 54 + len(palette)
    numbers = (start + len(runs), 0, 0, start, 40, width, height, 1, 8, RLE8, len(runs), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHIIiiHHIIiiII", *numbers) + palette + runs
