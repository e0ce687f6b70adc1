"""BMP files with bit masks, and kinds of BMP that are not read."""

import struct

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from classifier.picture import BrokenPicture, PictureTooLarge
from tests.classifier.garments import bmp, corner_and_middle, garment
from tests.classifier.reading import read_pixels
from tests.classifier.test_hostile_pictures import encode

BITFIELDS, ALPHABITFIELDS = 3, 6
GARMENT = garment()


def masked(
    levels: NDArray[np.uint8], masks: tuple[int, ...], alpha: int = 255, header: int = 56, bits: int = 0
) -> bytes:
    """A BMP of grey levels with these masks for red, green, blue and alpha; `alpha` of 255 is opaque."""
    bits = bits or (16 if max(masks) < 2**16 else 32)
    values = np.zeros(levels.shape, np.uint64)
    for mask, level in zip(masks, (levels, levels, levels, np.full_like(levels, alpha)), strict=False):
        if mask:
            shift = (mask & -mask).bit_length() - 1
            most = mask >> shift
            values |= np.rint(level.astype(float) * most / 255).astype(np.uint64) << np.uint64(shift)
    rows = values[::-1].astype("<u4").view(np.uint8).reshape(*levels.shape, 4)[..., : bits // 8]
    rows = rows.reshape(len(levels), -1)
    packed = np.pad(rows, ((0, 0), (0, -rows.shape[1] % 4)))
    return bmp(packed.tobytes(), len(levels), bits, BITFIELDS, header, struct.pack(f"<{len(masks)}I", *masks))


LAYOUTS = {
    "RGBX": (0xFF, 0xFF00, 0xFF0000, 0),
    "BGRX": (0xFF0000, 0xFF00, 0xFF, 0),
    "BGRA": (0xFF0000, 0xFF00, 0xFF, 0xFF000000),
    "ABGR": (0xFF000000, 0xFF0000, 0xFF00, 0xFF),
    "10 bits": (0x3FF00000, 0xFFC00, 0x3FF, 0xC0000000),
    "11, 11 and 10 bits": (0xFFE00000, 0x1FFC00, 0x3FF, 0),
    "4444": (0xF00, 0xF0, 0xF, 0xF000),
    "1555": (0x7C00, 0x3E0, 0x1F, 0x8000),
    "565": (0xF800, 0x7E0, 0x1F, 0),
    "565 BGR": (0x1F, 0x7E0, 0xF800, 0),
}


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("alpha", [0, 255])
def test_any_masks_are_read_and_an_alpha_channel_of_zeros_is_opaque(name: str, alpha: int) -> None:
    masks = LAYOUTS[name]
    depth = min(mask.bit_count() for mask in masks[:3])
    most = 2**depth - 1
    expected = 255 - round(40 * most / 255) * 255 / most
    pixels = read_pixels(masked(GARMENT, masks, alpha))
    assert corner_and_middle(pixels) == pytest.approx((0, expected), abs=3 if depth < 8 else 1)


@pytest.mark.parametrize("header", [40, 52, 56, 108, 124])
def test_masks_are_read_from_every_header(header: int) -> None:
    masks = (0xFF, 0xFF00, 0xFF0000) if header < 56 else (0xFF, 0xFF00, 0xFF0000, 0xFF000000)
    content = masked(GARMENT, masks, header=header)
    assert corner_and_middle(read_pixels(content)) == (0, 215)


def test_masks_of_24_bits_and_rows_from_above_are_read() -> None:
    content = bytearray(masked(garment(111), (0xFF, 0xFF00, 0xFF0000, 0), bits=24))
    assert corner_and_middle(read_pixels(bytes(content))) == (0, 215)
    content[22:26] = struct.pack("<i", -111)
    assert corner_and_middle(read_pixels(bytes(content))[::-1]) == (0, 215)


def test_an_alpha_channel_with_some_alpha_is_transparency() -> None:
    levels = np.where(GARMENT == 255, 0, GARMENT)
    values = levels.astype("<u4") * 0x10101 | np.where(GARMENT == 255, 0, 0xFF000000).astype("<u4")
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    content = bmp(values[::-1].tobytes(), 112, 32, BITFIELDS, 108, masks)
    assert corner_and_middle(read_pixels(content)) == (0, 215)


def test_a_genuine_image_with_masks_passes_byte_for_byte() -> None:
    levels = np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8)
    levels[0, [0, -1]] = 0
    assert np.array_equal(read_pixels(masked(levels, LAYOUTS["RGBX"])), levels)


@pytest.mark.parametrize(
    ("at", "value", "sentence"),
    [
        (28, struct.pack("<H", 64), "has 64 bits for each pixel and compression 0"),
        (28, struct.pack("<H", 2), "has 2 bits for each pixel"),
        (30, struct.pack("<I", 4), "compression 4"),
        (14, struct.pack("<I", 16), "a header of 16 bytes"),
        (28, struct.pack("<HI4x4x4xI", 8, 0, 300), "a palette of 300 colours"),
    ],
)
def test_a_bmp_of_another_kind_is_refused_in_a_true_sentence(at: int, value: bytes, sentence: str) -> None:
    content = bytearray(encode(Image.fromarray(GARMENT).convert("RGB"), "BMP"))
    content[at : at + len(value)] = value
    with pytest.raises(BrokenPicture, match=sentence):
        read_pixels(bytes(content))


@pytest.mark.parametrize("missing", [1, 1_000])
def test_a_bmp_with_masks_without_some_of_its_pixels_is_broken(missing: int) -> None:
    with pytest.raises(BrokenPicture):
        read_pixels(masked(GARMENT, LAYOUTS["RGBX"])[:-missing])


@pytest.mark.parametrize("header", [40, 56, 108])
@pytest.mark.parametrize("width", [-1, -1_979_711_460, -(2**31)])
def test_a_negative_width_is_the_large_one_that_pillow_reads(width: int, header: int) -> None:
    content = bytearray(encode(Image.new("RGB", (28, 28)), "BMP"))
    content[14:18], content[18:22] = struct.pack("<I", header), struct.pack("<i", width)
    with pytest.raises(PictureTooLarge, match=rf"The picture is {width % 2**32}×28 "):
        read_pixels(bytes(content))
