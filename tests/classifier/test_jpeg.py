"""The scans of a JPEG: where it ends, and what it costs."""

import struct

import numpy as np
import pytest
from PIL import Image

from classifier.picture import MAX_JPEG_SCANS as MAX_SCANS
from classifier.picture import BrokenPicture, PictureTooLarge, open_picture
from tests.classifier.garments import garment
from tests.classifier.hostile import segment
from tests.classifier.reading import read_pixels
from tests.classifier.test_hostile_pictures import encode

NOISY = np.clip(garment(600) + np.random.default_rng(0).normal(0, 6, (600, 600)), 0, 255).astype(np.uint8)
PROGRESSIVE = encode(Image.fromarray(NOISY), "JPEG", quality=90, progressive=True)
BASELINE = encode(Image.fromarray(NOISY), "JPEG", quality=90)
COLOUR = encode(Image.fromarray(NOISY).convert("RGB"), "JPEG", quality=90, restart_marker_blocks=20)


@pytest.mark.parametrize("code", [0xFE, 0xE1, 0xEC, 0xED])
@pytest.mark.parametrize("content", [b"a\xff\xd9b", b"\xff\xda\xff\xd9", b"\xff\xd8\xff\xff\xd9"])
def test_an_end_marker_in_a_segment_between_scans_does_not_end_the_picture(code: int, content: bytes) -> None:
    tables = [at for at in range(len(PROGRESSIVE)) if PROGRESSIVE.startswith(b"\xff\xc4", at)]
    for at in tables[1:]:
        inserted = PROGRESSIVE[:at] + segment(code, content) + PROGRESSIVE[at:]
        assert np.array_equal(read_pixels(inserted), read_pixels(PROGRESSIVE))


@pytest.mark.parametrize("picture", [BASELINE, PROGRESSIVE, COLOUR], ids=["baseline", "progressive", "restarts"])
@pytest.mark.parametrize("end", [b"", b"\xff", b"\0\0\0\0", b"\xff\xff"])
def test_a_jpeg_without_its_end_marker_is_read(picture: bytes, end: bytes) -> None:
    assert np.array_equal(read_pixels(picture[:-2] + end), read_pixels(picture))


@pytest.mark.parametrize("picture", [BASELINE, COLOUR], ids=["baseline", "restarts"])
@pytest.mark.parametrize("missing", [0.01, 0.1, 0.5, 0.9])
def test_a_jpeg_without_some_of_its_pixels_is_broken(picture: bytes, missing: float) -> None:
    with pytest.raises(BrokenPicture, match="damaged or incomplete"):
        read_pixels(picture[: round(len(picture) * (1 - missing))])


def test_a_flat_jpeg_without_some_of_its_pixels_is_broken() -> None:
    white = encode(Image.new("L", (400, 400), 255), "JPEG")
    with pytest.raises(BrokenPicture):
        read_pixels(white[:-40])


def small_scans(side: int, scans: int, components: int = 4) -> bytes:
    """A progressive JPEG whose scans hold nothing; libjpeg goes through all blocks for each."""
    table = segment(0xDB, b"\0" + b"\1" * 64)
    table += b"".join(segment(0xC4, bytes((kind, 1, *bytes(15), symbol))) for kind, symbol in ((0, 0), (0x10, 0xE0)))
    ids = b"".join(bytes((number, 0x11, 0)) for number in range(components))
    frame = segment(0xC2, struct.pack(">BHHB", 8, side, side, components) + ids)
    first = b"".join(segment(0xDA, bytes((1, number, 0, 0, 0, 1))) for number in range(components))
    more = b"".join(segment(0xDA, bytes((1, number % components, 0, 1, 63, 0))) for number in range(scans - components))
    return b"\xff\xd8" + table + frame + first + more + b"\xff\xd9"


def test_scans_over_many_blocks_are_refused() -> None:
    with pytest.raises(
        PictureTooLarge, match=r"9,000,000 blocks in its 24 scans, over the limit of 5,000,000 for a JPEG"
    ):
        open_picture(small_scans(4_000, MAX_SCANS))
    with pytest.raises(
        PictureTooLarge, match=r"needs 128,000,000 bytes of memory, over the limit of 100,000,000 for a"
    ):
        open_picture(small_scans(4_000, 4))
    open_picture(small_scans(2_000, MAX_SCANS))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ((2, 12), "12 bits for each sample"),
        ((-2, 0xC3), "lossless"),
        ((7, 2), "2 components"),
    ],
)
def test_a_jpeg_of_another_kind_is_refused_in_a_true_sentence(change: tuple[int, int], sentence: str) -> None:
    content = bytearray(BASELINE)
    frame = content.index(b"\xff\xc0")
    at, value = change
    content[frame + (at + 2 if at > 0 else 1)] = value
    with pytest.raises(BrokenPicture, match=sentence):
        read_pixels(bytes(content))
