"""Transparent pictures: a card or a disc with a garment on it, half transparent pictures, garments that are cut out."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from classifier.pixels import Pixels
from classifier.preprocessing import prepare
from tests.classifier.garments import background_and_cloth, garment
from tests.classifier.reading import read_pixels
from tests.classifier.test_hostile_pictures import encode
from tests.classifier.test_layout import COLOURS, coloured, contrast, luma

PAIRS = [(255, 40), (0, 200), (120, 20), (60, 230)]  # background and garment


def transparent(colours: NDArray[np.uint8], alpha: Pixels, kind: str = "PNG") -> bytes:
    """The picture, uint8 [side,side] or [side,side,3], with this alpha channel."""
    picture = Image.fromarray(colours).convert("RGB")
    picture.putalpha(Image.fromarray(alpha))
    return encode(picture, kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {}))


def on_canvas(picture: NDArray[np.uint8], margin: int, hidden: int = 0) -> NDArray[np.uint8]:
    """The picture on a larger canvas; the margin has the level `hidden`."""
    widths = [(margin, margin), (margin, margin), (0, 0)][: picture.ndim]
    return np.pad(picture, widths, constant_values=hidden)


def rounded(side: int, margin: int, radius: int) -> Pixels:
    """An alpha channel, uint8: a card with rounded corners, and transparent margins."""
    mask = Image.new("L", (side + 2 * margin, side + 2 * margin))
    box = (margin, margin, margin + side - 1, margin + side - 1)
    ImageDraw.Draw(mask).rounded_rectangle(box, radius, fill=255)
    return np.array(mask)


def disc(side: int, margin: int) -> Pixels:
    mask = Image.new("L", (side + 2 * margin, side + 2 * margin))
    ImageDraw.Draw(mask).ellipse((margin, margin, margin + side - 1, margin + side - 1), fill=255)
    return np.array(mask)


def shadowed(alpha: Pixels) -> Pixels:
    """The alpha channel with a soft shadow around what is visible, as in a window's screenshot of macOS."""
    blurred = Image.fromarray(alpha).filter(ImageFilter.GaussianBlur(10))
    return np.maximum(alpha, (np.asarray(blurred) * 0.4).astype(np.uint8))


CARDS: dict[str, Callable[[], Pixels]] = {
    "square": lambda: rounded(300, 20, 0),
    "square to the border": lambda: rounded(340, 0, 0),
    "rounded": lambda: rounded(300, 20, 12),
    "rounded to the border": lambda: rounded(340, 0, 30),
    "rounded with a shadow": lambda: shadowed(rounded(300, 20, 12)),
    "large margin": lambda: rounded(200, 70, 10),
    "disc": lambda: disc(300, 20),
    "disc to the border": lambda: disc(340, 0),
    "disc with a shadow": lambda: shadowed(disc(300, 20)),
}


@pytest.mark.parametrize("name", CARDS)
@pytest.mark.parametrize("hidden", [0, 128, 255])
@pytest.mark.parametrize(("background", "level"), PAIRS)
def test_the_background_of_a_card_is_that_of_its_garment(name: str, hidden: int, background: int, level: int) -> None:
    alpha = CARDS[name]()
    colours = np.where(alpha > 0, garment(340, background, level, 0.4), hidden).astype(np.uint8)
    pixels = read_pixels(transparent(colours, alpha))
    assert background_and_cloth(pixels) == pytest.approx((0, contrast(background, level)), abs=1)


@pytest.mark.parametrize("name", COLOURS)
@pytest.mark.parametrize("card", ["rounded", "disc"])
@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_a_card_may_have_any_colour(name: str, card: str, kind: str) -> None:
    background, cloth = COLOURS[name]
    pixels = read_pixels(transparent(coloured(background, cloth, 340, 0.4), CARDS[card](), kind))
    assert background_and_cloth(pixels) == pytest.approx((0, contrast(luma(background), luma(cloth))), abs=1)


@pytest.mark.parametrize("at", [(0, 0), (40, 0), (0, 40)])
def test_a_card_may_stand_anywhere_on_its_canvas(at: tuple[int, int]) -> None:
    alpha, colours = np.zeros((340, 340), np.uint8), np.zeros((340, 340), np.uint8)
    card = (slice(at[1], at[1] + 300), slice(at[0], at[0] + 300))
    alpha[card], colours[card] = 255, garment(300)
    assert background_and_cloth(read_pixels(transparent(colours, alpha))) == pytest.approx((0, 215), abs=1)


@pytest.mark.parametrize("opacity", [0.97, 0.9, 0.5, 0.1])
@pytest.mark.parametrize(("background", "level"), PAIRS)
def test_a_picture_that_is_half_transparent_everywhere_is_read_as_if_it_were_opaque(
    opacity: float, background: int, level: int
) -> None:
    picture = garment(200, background, level)
    alpha = np.full_like(picture, round(255 * opacity))
    found, opaque = read_pixels(transparent(picture, alpha)), read_pixels(encode(Image.fromarray(picture), "PNG"))
    assert np.array_equal(found, opaque)


@pytest.mark.parametrize("opacity", [1.0, 0.9, 0.5])
@pytest.mark.parametrize("hidden", [0, 77, 255])
@pytest.mark.parametrize("level", [0, 20, 100, 127, 128, 230, 255])
def test_a_garment_that_is_cut_out_becomes_bright_on_black(opacity: float, hidden: int, level: int) -> None:
    is_cloth = garment(300, 0, 1, 0.6) == 1
    alpha = np.where(is_cloth, round(255 * opacity), 0).astype(np.uint8)
    pixels = read_pixels(transparent(np.where(is_cloth, level, hidden).astype(np.uint8), alpha))
    assert background_and_cloth(pixels) == pytest.approx((0, level if level >= 128 else 255 - level), abs=1)


def test_a_cut_out_with_soft_edges_has_no_rim() -> None:
    is_cloth = garment(300, 0, 255, 0.6)
    alpha = np.array(Image.fromarray(is_cloth).filter(ImageFilter.GaussianBlur(2)))
    pixels = read_pixels(transparent(np.full_like(alpha, 40), alpha))
    assert background_and_cloth(pixels) == pytest.approx((0, 215), abs=1)


@pytest.mark.parametrize("level", [40, 200])
def test_a_rectangular_garment_that_is_cut_out_is_no_card(level: int) -> None:
    alpha = rounded(200, 50, 0)
    pixels = read_pixels(transparent(np.full_like(alpha, level), alpha))
    assert (pixels == max(level, 255 - level)).all()


@pytest.mark.parametrize("margin", [10, 60])
def test_what_is_hidden_under_transparent_pixels_has_no_effect(margin: int) -> None:
    picture = on_canvas(garment(200), margin)
    alpha = rounded(200, margin, 8)
    noise = np.random.default_rng(0).integers(0, 256, picture.shape, dtype=np.uint8)
    expected = read_pixels(transparent(picture, alpha))
    assert np.array_equal(
        read_pixels(transparent(np.where(alpha == 0, noise, picture).astype(np.uint8), alpha)), expected
    )


def test_what_was_done_to_a_transparent_picture_is_named() -> None:
    def adapted(colours: Pixels, alpha: Pixels) -> list[str]:
        return prepare(transparent(colours, alpha)).input["adapted"]

    card = garment(340, 255, 40, 0.4)
    assert adapted(card, rounded(300, 20, 12)) == [
        *("laid on a background", "cropped", "inverted", "resized", "sharpened")
    ]
    assert adapted(garment(200, 0, 200), garment(200, 0, 255)) == [
        *("laid on a background", "cropped", "resized", "sharpened")
    ]
    assert adapted(card, np.full_like(card, 255)) == ["cropped", "inverted", "resized", "sharpened"]  # not transparent
