"""Where the garment is in a picture, and on which background: margins, backgrounds, images of 28×28 pixels."""

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from classifier.pixels import SIDE, Pixels
from classifier.preprocessing import prepare
from tests.classifier.garments import background_and_cloth, corner_and_middle, enlarged, garment
from tests.classifier.reading import read_pixels
from tests.classifier.test_hostile_pictures import encode

DARK_ON_WHITE = (0, 215)  # background and cloth of a garment of level 40 on white
GREYS = [
    (background, level)
    for background in (0, 20, 50, 100, 120, 127, 128, 150, 200, 240, 255)
    for level in (0, 20, 60, 127, 128, 200, 255)
    if abs(background - level) >= 20
]


def read(picture: NDArray[np.uint8], kind: str = "PNG") -> Pixels:
    return read_pixels(encode(Image.fromarray(picture), kind))


def contrast(background: float, level: float) -> float:
    """The level of a garment on black when the background becomes 0 and the largest possible level 255."""
    if level > background:
        return (level - background) * 255 / (255 - background)
    return (background - level) * 255 / background


def moved(picture: Pixels, at: tuple[float, float], size: float) -> Pixels:
    """The picture with its middle, over `size` of the side, at this place, in fractions of the side."""
    side = len(picture)
    width = round(side * size)
    first = (side - width) // 2
    result = np.full_like(picture, picture[0, 0])
    left, top = (round(side * middle - width / 2) for middle in at)
    result[top : top + width, left : left + width] = picture[first : first + width, first : first + width]
    return result


def coloured(
    background: tuple[int, int, int], cloth: tuple[int, int, int], side: int = 112, size: float = 0.5
) -> NDArray[np.uint8]:
    """uint8 [side,side,3]: a T-shirt in these colours."""
    is_cloth = garment(side, 0, 1, size)[..., None] == 1
    return np.where(is_cloth, cloth, background).astype(np.uint8)


def luma(colour: tuple[int, int, int]) -> float:
    return sum(weight * level for weight, level in zip((0.299, 0.587, 0.114), colour, strict=True))


def is_large(pixels: Pixels) -> bool:
    """Whether the garment is as large as each in Fashion-MNIST: at least 26 pixels."""
    rows, columns = (np.flatnonzero((pixels > 60).any(axis)) for axis in (1, 0))
    return max(int(found[-1] - found[0]) for found in (rows, columns)) >= SIDE - 3


@pytest.mark.parametrize("size", [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.25])
@pytest.mark.parametrize("side", [29, 56, 112, 300, 1_000])
@pytest.mark.parametrize(("background", "level"), [(255, 40), (0, 200)])
def test_margins_are_cropped(side: int, size: float, background: int, level: int) -> None:
    pixels = read(garment(side, background, level, size))
    expected = contrast(background, level)
    assert background_and_cloth(pixels) == pytest.approx((0, expected), abs=6 if side * size < SIDE else 1)
    assert is_large(pixels)


@pytest.mark.parametrize("at", [(0.25, 0.3), (0.2, 0.2), (0.8, 0.8), (0.2, 0.8), (0.75, 0.4), (0.5, 0.22)])
@pytest.mark.parametrize(("background", "level"), [(255, 40), (0, 200), (120, 20)])
def test_a_garment_off_centre_is_centred(at: tuple[float, float], background: int, level: int) -> None:
    pixels = read(moved(garment(300, background, level, 0.4), at, 0.4))
    assert background_and_cloth(pixels) == pytest.approx((0, contrast(background, level)), abs=1)
    assert is_large(pixels)


@pytest.mark.parametrize(("background", "level"), GREYS)
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_background_of_any_grey_becomes_black_and_the_garment_lighter(background: int, level: int, kind: str) -> None:
    pixels = read(garment(200, background, level, 0.7), kind)
    tolerance = 1 if kind == "PNG" else 4
    assert background_and_cloth(pixels) == pytest.approx((0, contrast(background, level)), abs=tolerance)


@pytest.mark.parametrize("level", [20, 235])
def test_backgrounds_one_grey_level_apart_give_nearly_the_same_pixels(level: int) -> None:
    darker, lighter = (read(garment(200, background, level, 0.7)).astype(int) for background in (127, 128))
    assert abs(darker - lighter).max() <= 4


COLOURS = {
    "black on red": ((200, 30, 30), (0, 0, 0)),
    "white on red": ((200, 30, 30), (255, 255, 255)),
    "yellow on blue": ((20, 40, 160), (240, 220, 60)),
    "blue on yellow": ((240, 220, 60), (20, 40, 160)),
    "dark green on beige": ((230, 215, 190), (20, 70, 40)),
    "white on pink": ((250, 170, 180), (255, 255, 255)),
}


@pytest.mark.parametrize("name", COLOURS)
@pytest.mark.parametrize("mode", ["RGB", "P"])
def test_a_background_of_any_colour_becomes_black(name: str, mode: str) -> None:
    background, cloth = COLOURS[name]
    picture = Image.fromarray(coloured(background, cloth)).convert(mode, palette=Image.Palette.ADAPTIVE)
    background, cloth = (picture.convert("RGB").getpixel(at) for at in ((0, 0), (56, 56)))  # type: ignore[assignment]
    pixels = read_pixels(encode(picture, "PNG"))
    assert background_and_cloth(pixels) == pytest.approx((0, contrast(luma(background), luma(cloth))), abs=1)


@pytest.mark.parametrize("gradient", [4, 10])
def test_a_background_that_is_not_quite_even_becomes_dark(gradient: int) -> None:
    levels = garment(200, 240, 40, 0.6).astype(float)
    levels -= (levels == 240) * np.linspace(-gradient / 2, gradient / 2, 200)
    background, cloth = background_and_cloth(read(levels.round().astype(np.uint8)))
    assert background <= gradient
    assert cloth == pytest.approx(contrast(240, 40), abs=gradient)


def test_a_background_with_noise_is_cropped() -> None:
    noise = np.random.default_rng(0).normal(0, 4, (300, 300))
    pixels = read(np.clip(garment(300, 230, 60) + noise, 0, 255).astype(np.uint8))
    assert background_and_cloth(pixels) == pytest.approx((0, contrast(230, 60)), abs=6)
    assert is_large(pixels)


@pytest.mark.parametrize("level", [0, 33, 127, 128, 200, 255])
@pytest.mark.parametrize("side", [SIDE, 29, 300])
def test_a_blank_picture_becomes_black(level: int, side: int) -> None:
    assert not read(np.full((side, side), level, np.uint8)).any()


def genuine() -> Pixels:
    """uint8 [28,28]: a garment as in Fashion-MNIST, of several levels, which touches no corner."""
    levels = garment(SIDE, 0, 200, 26 / SIDE)
    levels[12:16, 8:20] = 120
    return levels


@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF"])
def test_a_negative_of_a_genuine_image_becomes_that_image(kind: str) -> None:
    assert np.array_equal(read(genuine(), kind), genuine())
    assert np.array_equal(read(255 - genuine(), kind), genuine())


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_a_negative_with_losses_becomes_nearly_that_image(kind: str) -> None:
    pixels = read(255 - genuine(), kind).astype(int)
    assert abs(pixels - genuine()).mean() < 8
    assert corner_and_middle(pixels.astype(np.uint8)) == pytest.approx((0, 120), abs=12)


@pytest.mark.parametrize(
    ("kind", "size"), [("PNG", 0.5), ("PNG", 0.7), ("PNG", 0.9), ("BMP", 0.9), ("JPEG", 0.7), ("JPEG", 0.9)]
)
def test_a_dark_garment_on_white_of_28_by_28_pixels_is_laid_out_as_a_larger_one(kind: str, size: float) -> None:
    small, large = garment(SIDE, size=size), enlarged(garment(SIDE, size=size), 8)
    found, expected = background_and_cloth(read(small, kind)), background_and_cloth(read(large, kind))
    assert found == pytest.approx(expected, abs=8)
    assert found == pytest.approx(DARK_ON_WHITE, abs=8)


def test_what_was_done_is_named_in_order() -> None:
    def adapted(picture: Pixels) -> list[str]:
        return prepare(encode(Image.fromarray(picture), "PNG")).input["adapted"]

    assert adapted(genuine()) == []
    assert adapted(255 - genuine()) == ["inverted"]
    assert adapted(garment(112, 0, 200)) == ["cropped", "resized", "sharpened"]
    assert adapted(garment(112, 240, 20)[:, 20:]) == ["cropped", "inverted", "stretched", "resized", "sharpened"]
    assert adapted(garment(200, 0, 200)[:100]) == ["cropped", "padded", "resized", "sharpened"]
    assert adapted(garment(40, 0, 200)) == ["cropped", "resized", "sharpened"]
