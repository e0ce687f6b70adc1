"""Drawings of a garment, and encoders of what Pillow does not write."""

import struct
import zlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from classifier.pixels import SIDE, Pixels
from tests.classifier.test_hostile_pictures import PNG_SIGNATURE, chunk

MIDDLE = SIDE // 2
EDGES = ((ImageFilter.MinFilter, 1), (ImageFilter.MaxFilter, 0))


def garment(side: int = 112, background: int = 255, level: int = 40, size: float = 0.5) -> Pixels:
    """uint8 [side,side]: a T-shirt of this grey level over `size` of the side, in the middle of its background."""
    picture = np.full((side, side), background, np.uint8)
    width = round(side * size)
    first = (side - width) // 2
    picture[first : first + width, first + width // 5 : first + width - width // 5] = level  # body
    picture[first : first + width // 3, first : first + width] = level  # sleeves
    return picture


def boot() -> Pixels:
    """uint8 [56,112]: a light boot on black, which looks different however it is turned."""
    picture = np.zeros((56, 112), np.uint8)
    picture[8:48, 16:32] = 255  # shaft
    picture[32:48, 16:72] = 255  # foot
    return picture


def enlarged(picture: Pixels, factor: int) -> Pixels:
    """The picture with each pixel as `factor`×`factor` pixels."""
    return picture.repeat(factor, axis=0).repeat(factor, axis=1)


def corner_and_middle(pixels: Pixels) -> tuple[int, int]:
    """Of a T-shirt that fills the image, the lower left corner is background, and the middle is cloth."""
    assert pixels.shape == (SIDE, SIDE)
    assert pixels.dtype == np.uint8
    return int(pixels[-1, 0]), int(pixels[MIDDLE, MIDDLE])


def background_and_cloth(pixels: Pixels) -> tuple[float, float]:
    """The median levels around a T-shirt that fills the image, and of its cloth.

    Fails if the image shows anything else, but for two pixels at the edges of the T-shirt.
    """
    shape = Image.fromarray(np.pad(garment(SIDE, 0, 1, 1.0), 2))
    is_cloth, is_background = (np.asarray(shape.filter(kind(5)))[2:-2, 2:-2] == level for kind, level in EDGES)
    background, cloth = float(np.median(pixels[is_background])), float(np.median(pixels[is_cloth]))
    is_light = pixels > (background + cloth) / 2
    assert is_light[is_cloth].mean() > 0.97
    assert is_light[is_background].mean() < 0.03
    return background, cloth


def png(rows: NDArray[np.uint8], size: tuple[int, int], depth: int, colour: int, *chunks: bytes) -> bytes:
    """A PNG of packed rows, uint8 [height, bytes of a row], each with filter 0; `chunks` stand before the pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 0))
    pixels = zlib.compress(np.insert(rows, 0, 0, axis=1).tobytes())
    return b"".join((PNG_SIGNATURE, header, *chunks, chunk(b"IDAT", pixels), chunk(b"IEND")))


def grey_png(levels: NDArray[np.integer], depth: int, *chunks: bytes) -> bytes:
    """A grey PNG of levels of `depth` bits, [height,width]."""
    height, width = levels.shape
    if depth == 16:
        rows = levels.astype(">u2").view(np.uint8).reshape(height, -1)
    else:
        bits = (levels[..., None] >> np.arange(depth - 1, -1, -1) & 1).astype(np.uint8)
        rows = np.packbits(bits.reshape(height, -1), axis=1)
    return png(rows, (width, height), depth, 0, *chunks)


def bmp(pixels: bytes, side: int, bits: int, compression: int, header: int = 40, masks: bytes = b"") -> bytes:
    """A BMP of rows from below; the masks stand in its header, or behind one of 40 bytes."""
    info = struct.pack("<IiiHHI5I", header, side, side, 1, bits, compression, 0, 0, 0, 0, 0) + masks
    info = info.ljust(header, b"\0")
    start = 14 + len(info)
    return b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start) + info + pixels
