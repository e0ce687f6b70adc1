"""Pictures for the photo network, and the facts about a picture that a prediction comes with."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from classifier.pixels import PHOTO_SHAPE, PHOTO_SIDE, SHAPE, SIDE, Pixels
from classifier.preprocessing import Prepared, prepare
from tests.classifier.garments import boot, garment
from tests.classifier.test_cut_outs import rounded, transparent
from tests.classifier.test_hostile_pictures import encode
from tests.classifier.test_layout import coloured, genuine

RED, WHITE, BLUE = (200, 30, 30), (255, 255, 255), (20, 40, 160)


def photo(picture: NDArray[np.uint8], kind: str = "PNG", **options: Any) -> Prepared:
    return prepare(encode(Image.fromarray(picture), kind, **options), photos=True)


def cluttered(side: int = 300) -> Pixels:
    """uint8 [side,side]: a grey garment on noise."""
    noise = np.random.default_rng(0).integers(0, 256, (side, side), dtype=np.uint8)
    return np.where(garment(side, 0, 1) == 1, 40, noise).astype(np.uint8)


@pytest.mark.parametrize("side", [SIDE, 29, 56, 300, 1_000])
@pytest.mark.parametrize(("background", "level"), [(255, 40), (0, 200), (120, 20)])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_grey_picture_on_a_plain_background_is_for_the_small_network(
    side: int, background: int, level: int, mode: str
) -> None:
    content = encode(Image.fromarray(garment(side, background, level)).convert(mode), "PNG")
    found, without = prepare(content, photos=True), prepare(content)
    assert found.pixels.shape == SHAPE
    assert np.array_equal(found.pixels, without.pixels)
    assert found.input == without.input


@pytest.mark.parametrize("side", [29, 56, 300, 1_000])
@pytest.mark.parametrize("colours", [(WHITE, RED), (RED, WHITE), (BLUE, (0, 0, 0))])
def test_a_coloured_picture_is_for_the_photo_network(side: int, colours: tuple[Any, Any]) -> None:
    pixels = photo(coloured(*colours, side)).pixels
    assert pixels.shape == PHOTO_SHAPE
    assert pixels.dtype == np.uint8


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_cluttered_picture_is_for_the_photo_network(kind: str) -> None:
    found = photo(cluttered(), kind)
    assert found.pixels.shape == PHOTO_SHAPE
    assert found.input["adapted"] == ["resized"]
    np.testing.assert_allclose(found.pixels[0].astype(int), found.pixels[2], atol=2)  # still grey


@pytest.mark.parametrize(
    "picture", [genuine(), 255 - genuine(), cluttered(SIDE)], ids=["as it is", "negative", "noise"]
)
def test_a_28_by_28_picture_is_never_for_the_photo_network(picture: Pixels) -> None:
    assert photo(picture).pixels.shape == SHAPE
    assert photo(coloured(WHITE, RED, SIDE)).pixels.shape == SHAPE


def test_without_photos_every_picture_is_for_the_small_network() -> None:
    for picture in (cluttered(), coloured(WHITE, RED), coloured(RED, WHITE, 1_000)):
        assert prepare(encode(Image.fromarray(picture), "PNG")).pixels.shape == SHAPE


@pytest.mark.parametrize(("background", "cloth"), [(WHITE, RED), (RED, WHITE), ((230, 215, 190), (20, 70, 40))])
def test_a_photo_keeps_its_colours_and_a_margin_of_its_background(background: Any, cloth: Any) -> None:
    pixels = photo(coloured(background, cloth, 400, 0.5)).pixels
    assert tuple(pixels[:, 0, 0]) == tuple(pixels[:, -1, -1]) == background
    assert tuple(pixels[:, PHOTO_SIDE // 2, PHOTO_SIDE // 2]) == cloth
    is_cloth = (abs(pixels.astype(int) - np.array(background)[:, None, None]) > 20).any(axis=0)
    width = np.ptp(np.flatnonzero(is_cloth.any(axis=0))) + 1
    assert 0.05 < (PHOTO_SIDE - width) / 2 / width < 0.08


@pytest.mark.parametrize("turned", [False, True])
def test_a_photo_that_is_not_square_is_letterboxed_on_its_own_background(turned: bool) -> None:
    levels = np.pad(boot(), 20)[..., None] / 255  # 1 is the garment
    picture = (np.array(WHITE) * (1 - levels) + np.array(RED) * levels).astype(np.uint8)
    found = photo(picture.transpose(1, 0, 2) if turned else picture)
    pixels = found.pixels.transpose(0, 2, 1) if turned else found.pixels
    assert found.input["adapted"] == ["cropped", "padded", "resized"]
    above, below = pixels[:, :20], pixels[:, -20:]
    assert (above == 255).all()
    assert (below == 255).all()
    assert tuple(pixels[:, PHOTO_SIDE // 2 + 10, 20]) == RED


def test_a_cluttered_photo_is_letterboxed_on_the_median_of_its_border() -> None:
    noise = np.random.default_rng(0).integers(80, 121, (150, 300, 3), dtype=np.uint8)
    noise[50:100, 50:250] = np.random.default_rng(1).integers(0, 256, (50, 200, 3))
    found = photo(noise)
    assert found.input["adapted"] == ["padded", "resized"]
    assert found.pixels[:, :35] == pytest.approx(100, abs=5)
    assert found.pixels[:, -35:] == pytest.approx(100, abs=5)


def test_the_frame_of_a_photo_is_cropped() -> None:
    picture = np.zeros((300, 300, 3), np.uint8)
    picture[4:-4, 4:-4] = coloured(WHITE, RED, 292, 0.6)
    pixels = photo(picture).pixels
    assert tuple(pixels[:, 0, 0]) == WHITE
    assert tuple(pixels[:, PHOTO_SIDE // 2, PHOTO_SIDE // 2]) == RED


def test_a_photo_on_a_card_gets_its_colour() -> None:
    content = transparent(coloured(WHITE, RED, 340, 0.4), rounded(300, 20, 30))
    found = prepare(content, photos=True)
    assert tuple(found.pixels[:, 0, 0]) == WHITE
    assert found.input["adapted"] == ["laid on a background", "cropped", "resized"]


def test_a_blank_picture_is_a_photo_only_if_it_is_coloured() -> None:
    white, red = np.full((100, 100, 3), 255, np.uint8), np.full((100, 100, 3), RED, np.uint8)
    assert not photo(white).pixels.any()
    assert photo(white).pixels.shape == SHAPE
    assert (photo(red).pixels == np.array(RED)[:, None, None]).all()


@pytest.mark.parametrize(
    ("kind", "name"),
    [("PNG", "PNG"), ("JPEG", "JPEG"), ("WEBP", "WebP"), ("AVIF", "AVIF"), ("GIF", "GIF"), ("BMP", "BMP")],
)
@pytest.mark.parametrize("photos", [False, True])
@pytest.mark.parametrize("size", [(SIDE, SIDE), (300, 200), (2_000, 1_000)])
def test_the_facts_are_those_of_the_file(kind: str, name: str, photos: bool, size: tuple[int, int]) -> None:
    picture = Image.fromarray(coloured(WHITE, RED)).resize(size)
    found = prepare(encode(picture, kind), photos=photos).input
    assert list(found) == ["format", "width", "height", "adapted"]
    assert (found["format"], found["width"], found["height"]) == (name, *size)


@pytest.mark.parametrize("photos", [False, True])
def test_all_that_was_done_to_a_picture_is_named_in_order(photos: bool) -> None:
    exif = Image.Exif()
    exif[0x112] = 6
    colours = np.pad(coloured(WHITE, RED, 200, 0.5)[:140], ((0, 0), (20, 20), (0, 0)))
    picture = Image.fromarray(colours)
    picture.putalpha(Image.fromarray(rounded(200, 20, 10)[20:160]))
    found = prepare(encode(picture, "PNG", exif=exif), photos=photos).input
    assert (found["width"], found["height"]) == (240, 140)
    ends = ["padded", "resized"] if photos else ["inverted", "padded", "resized", "sharpened"]
    assert found["adapted"] == ["turned", "laid on a background", "cropped", *ends]
