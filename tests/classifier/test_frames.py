"""Frames around a picture, and bars above and below or left and right of it, are cropped."""

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.classifier.garments import background_and_cloth, garment
from tests.classifier.test_layout import DARK_ON_WHITE, coloured, contrast, is_large, read

WHITE, DARK = (255, 255, 255), (40, 40, 40)
COLOURS = [(255, 0, 0), (30, 60, 200), (255, 255, 0)]
PAIRS = [(255, 40), (0, 200), (120, 20), (200, 255)]  # background and garment


def framed(picture: NDArray[np.uint8], thickness: int, colour: int | tuple[int, int, int]) -> NDArray[np.uint8]:
    """The picture with its outermost pixels, so many on each side, in this colour."""
    result = np.full_like(picture, colour)
    inside = slice(thickness, -thickness)
    result[inside, inside] = picture[inside, inside]
    return result


@pytest.mark.parametrize("thickness", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("frame", [0, 40, 90, 150, 200, 255])
@pytest.mark.parametrize(("background", "level"), PAIRS)
def test_a_frame_of_any_grey_is_cropped(thickness: int, frame: int, background: int, level: int) -> None:
    pixels = read(framed(garment(200, background, level, 0.7), thickness, frame))
    assert background_and_cloth(pixels) == pytest.approx((0, contrast(background, level)), abs=1)
    assert is_large(pixels)


@pytest.mark.parametrize("thickness", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("frame", COLOURS)
@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF"])
def test_a_frame_of_any_colour_is_cropped(thickness: int, frame: tuple[int, int, int], kind: str) -> None:
    pixels = read(framed(coloured(WHITE, DARK, 200, 0.7), thickness, frame), kind)
    assert background_and_cloth(pixels) == pytest.approx(DARK_ON_WHITE, abs=1)


@pytest.mark.parametrize(("side", "thickness"), [(400, 1), (1_000, 1), (1_000, 3)])
@pytest.mark.parametrize("frame", COLOURS)
def test_a_coloured_frame_in_a_jpeg_is_cropped(side: int, thickness: int, frame: tuple[int, int, int]) -> None:
    pixels = read(framed(coloured(WHITE, DARK, side, 0.7), thickness, frame), "JPEG")
    assert background_and_cloth(pixels) == pytest.approx(DARK_ON_WHITE, abs=12)


@pytest.mark.parametrize("thickness", [1, 2, 4, 5])
@pytest.mark.parametrize("frame", [0, 128])
def test_a_grey_frame_in_a_jpeg_is_cropped(thickness: int, frame: int) -> None:
    pixels = read(framed(garment(200, size=0.7), thickness, frame), "JPEG")
    assert background_and_cloth(pixels) == pytest.approx(DARK_ON_WHITE, abs=6)


@pytest.mark.parametrize(("side", "thickness"), [(1_000, 4), (1_000, 10), (1_000, 25), (2_500, 12), (2_500, 50)])
@pytest.mark.parametrize(("background", "level"), PAIRS)
@pytest.mark.parametrize("frame", [0, 90, 255])
def test_a_frame_of_a_large_picture_is_cropped(
    side: int, thickness: int, background: int, level: int, frame: int
) -> None:
    pixels = read(framed(garment(side, background, level, 0.7), thickness, frame))
    assert background_and_cloth(pixels) == pytest.approx((0, contrast(background, level)), abs=1)


@pytest.mark.parametrize(("side", "thickness"), [(400, 1), (1_000, 1), (1_000, 2), (2_500, 3), (2_500, 8)])
@pytest.mark.parametrize("frame", [0, 90])
def test_a_thin_frame_of_a_large_picture_is_cropped(side: int, thickness: int, frame: int) -> None:
    pixels = read(framed(garment(side, size=0.7), thickness, frame))
    assert background_and_cloth(pixels) == pytest.approx(DARK_ON_WHITE, abs=1)


@pytest.mark.parametrize(("background", "level"), PAIRS)
def test_a_garment_that_touches_the_border_is_no_frame(background: int, level: int) -> None:
    levels = garment(200, background, level, 0.6)[40:160]
    assert background_and_cloth(read(levels)) == pytest.approx((0, contrast(background, level)), abs=1)


@pytest.mark.parametrize("bar", [0, 90, 255])
@pytest.mark.parametrize("thickness", [1, 4, 20, 60])
@pytest.mark.parametrize(("background", "level"), PAIRS)
@pytest.mark.parametrize("axis", [0, 1], ids=["above and below", "left and right"])
def test_bars_are_cropped(axis: int, thickness: int, bar: int, background: int, level: int) -> None:
    widths = [(0, 0), (0, 0)]
    widths[axis] = (thickness, thickness)
    pixels = read(np.pad(garment(160, background, level, 0.7), widths, constant_values=bar))
    assert background_and_cloth(pixels) == pytest.approx((0, contrast(background, level)), abs=1)
    assert is_large(pixels)


def test_a_large_screenshot_with_bars_is_cropped() -> None:
    screen = np.zeros((2_400, 1_080), np.uint8)
    screen[660:1_740] = garment(1_080, size=0.6)
    assert background_and_cloth(read(screen)) == pytest.approx(DARK_ON_WHITE, abs=1)
