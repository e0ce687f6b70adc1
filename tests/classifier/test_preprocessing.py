import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from classifier.networks import SIDE, Pixels
from classifier.picture import MAX_JPEG_SCANS, BrokenPicture, PictureTooLarge, open_picture
from tests.classifier.garments import boot, corner_and_middle
from tests.classifier.reading import read_pixels

GENUINE = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE), dtype=np.uint8)
GENUINE[0] = 255  # a light border, which means a light background in any other picture
GENUINE[[0, -1], [0, -1]] = 32, 0  # two dark corners, as every genuine image has them


def encode(picture: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def drawing(background: int, garment: int, size: tuple[int, int] = (112, 112)) -> Image.Image:
    """A T-shirt of half the width and half the height in the middle of its background."""
    width, height = size
    picture = Image.new("L", size, background)
    left, top, right, bottom = width // 4, height // 4, width - width // 4, height - height // 4
    picture.paste(garment, (left, top, right, top + (bottom - top) // 3))  # sleeves
    picture.paste(garment, (left + (right - left) // 4, top, right - (right - left) // 4, bottom))  # body
    return picture


def with_corners(levels: tuple[int, ...]) -> Pixels:
    """GENUINE with these levels above left and right, below left and right."""
    pixels = GENUINE.copy()
    pixels[[0, 0, -1, -1], [0, -1, 0, -1]] = levels
    return pixels


def cut_out(hidden: int, garment: int) -> Image.Image:
    """The same on a transparent background, the colour of which is `hidden`."""
    picture = drawing(hidden, garment).convert("RGBA")
    picture.putalpha(drawing(0, 255))
    return picture


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        *[("PNG", mode) for mode in ("L", "LA", "P", "RGB", "RGBA")],
        *[("BMP", mode) for mode in ("L", "P", "RGB")],
        *[("GIF", mode) for mode in ("L", "P")],
        *[("WEBP", mode) for mode in ("L", "RGB", "RGBA")],
    ],
)
def test_a_genuine_image_passes_byte_for_byte(kind: str, mode: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    pixels = read_pixels(encode(Image.fromarray(GENUINE).convert(mode), kind, **options))
    assert np.array_equal(pixels, GENUINE)


@pytest.mark.parametrize("corners", [(32, 32, 255, 255), (32, 255, 255, 0), (255, 255, 0, 0), (0, 32, 0, 255)])
def test_a_28_by_28_picture_with_two_dark_corners_passes_byte_for_byte(corners: tuple[int, ...]) -> None:
    assert np.array_equal(read_pixels(encode(Image.fromarray(with_corners(corners)), "PNG")), with_corners(corners))


@pytest.mark.parametrize("corners", [(33, 33, 255, 255), (0, 33, 33, 33), (255, 255, 255, 0), (200, 200, 200, 200)])
def test_a_28_by_28_picture_with_fewer_dark_corners_does_not(corners: tuple[int, ...]) -> None:
    pixels = read_pixels(encode(Image.fromarray(with_corners(corners)), "PNG"))
    assert not np.array_equal(pixels, with_corners(corners))


def test_a_16_bit_picture_keeps_its_upper_bytes() -> None:
    deep = Image.fromarray(GENUINE.astype(np.uint16) * 256 + 77)
    assert np.array_equal(read_pixels(encode(deep, "PNG")), GENUINE)
    larger = [encode(picture.resize((56, 56), 0), "PNG") for picture in (deep, Image.fromarray(GENUINE))]
    assert np.array_equal(read_pixels(larger[0]), read_pixels(larger[1]))
    assert len(np.unique(read_pixels(larger[0]))) > 100


def test_the_pixels_are_writable() -> None:
    pixels = read_pixels(encode(Image.fromarray(GENUINE), "PNG"))
    pixels[:] = 0


@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF", "WEBP", "JPEG"])
@pytest.mark.parametrize(
    ("background", "garment", "expected"),
    [(0, 200, (0, 200)), (100, 20, (0, 204)), (255, 20, (0, 235)), (128, 255, (0, 255))],
)
def test_a_garment_is_light_on_black_whatever_its_background_was(
    kind: str, background: int, garment: int, expected: tuple[int, int]
) -> None:
    result = corner_and_middle(read_pixels(encode(drawing(background, garment), kind)))
    assert result == pytest.approx(expected, abs=2 if kind in ("JPEG", "WEBP") else 0)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_all_modes_give_the_same_pixels(mode: str) -> None:
    picture = drawing(255, 0)
    deep = Image.fromarray(np.asarray(picture).astype(np.uint16) * 257)
    picture = deep if mode == "I;16" else picture.convert(mode)
    assert np.array_equal(read_pixels(encode(picture, "PNG")), read_pixels(encode(drawing(255, 0), "PNG")))


@pytest.mark.parametrize("size", [(224, 112), (112, 224)])
@pytest.mark.parametrize(("background", "garment", "expected"), [(30, 200, 193), (250, 40, 214)])
def test_a_garment_that_is_not_square_is_padded_with_background(
    size: tuple[int, int], background: int, garment: int, expected: int
) -> None:
    pixels = read_pixels(encode(drawing(background, garment, size), "PNG"))
    assert corner_and_middle(pixels) == (0, expected)
    upright = pixels if size[0] > size[1] else pixels.mT
    assert not upright[:7].any()
    assert not upright[21:].any()
    assert upright[7].any()
    assert upright[20].any()


@pytest.mark.parametrize(("hidden", "garment"), [(0, 20), (255, 20), (0, 230), (255, 230), (77, 100)])
@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_a_cut_out_becomes_bright_on_black(kind: str, hidden: int, garment: int) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    corner, middle = corner_and_middle(read_pixels(encode(cut_out(hidden, garment), kind, **options)))
    assert (corner, middle) == (0, max(garment, 255 - garment))


def test_a_cut_out_of_28_by_28_pixels_is_not_a_genuine_image() -> None:
    small = cut_out(0, 20).resize((SIDE, SIDE), Image.Resampling.NEAREST)
    assert corner_and_middle(read_pixels(encode(small, "PNG"))) == (0, 235)


def test_an_entirely_transparent_picture_becomes_black() -> None:
    for side in (SIDE, 50):
        assert not read_pixels(encode(Image.new("RGBA", (side, side)), "PNG")).any()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
def test_a_photo_is_turned_by_its_exif_orientation(kind: str, orientation: int) -> None:
    photo = Image.fromarray(boot())
    method = [None, 0, 3, 1, 5, 4, 6, 2][orientation - 1]  # of Image.Transpose
    upright = photo if method is None else photo.transpose(Image.Transpose(method))
    exif = Image.Exif()
    exif[0x112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    turned = read_pixels(encode(photo, kind, exif=exif, **options))
    np.testing.assert_allclose(turned.astype(int), read_pixels(encode(upright, kind, **options)), atol=4)
    assert np.allclose(turned.astype(int), read_pixels(encode(photo, kind, **options)), atol=4) == (orientation == 1)


def test_a_genuine_image_is_not_turned() -> None:
    exif = Image.Exif()
    exif[0x112] = 3
    assert np.array_equal(read_pixels(encode(Image.fromarray(GENUINE), "PNG", exif=exif)), GENUINE)


def test_a_photo_with_damaged_exif_data_is_read() -> None:
    photo = encode(drawing(0, 200), "JPEG", exif=b"Exif\0\0no TIFF")
    assert corner_and_middle(read_pixels(photo)) == pytest.approx((0, 200), abs=2)


@pytest.mark.parametrize(
    "size", [(1, 1), (1, 2), (2, 1), (28, 1), (1, 28), (28, 29), (3, 5_000), (65_535, 1), (1, 65_535)]
)
def test_pictures_of_any_size_are_read(size: tuple[int, int]) -> None:
    assert not read_pixels(encode(Image.new("L", size, 200), "PNG")).any()
    assert not read_pixels(encode(Image.new("RGBA", size, (200, 0, 0, 100)), "PNG")).any()
    if max(size) <= 65_500:  # the limit of libjpeg
        assert not read_pixels(encode(Image.new("RGB", size, (200, 0, 0)), "JPEG")).any()


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_the_first_frame_of_an_animation_is_read(kind: str) -> None:
    frames = [drawing(0, 200), drawing(0, 100)]
    animation = encode(frames[0].convert("RGB"), kind, save_all=True, append_images=frames[1:], lossless=True)
    assert corner_and_middle(read_pixels(animation)) == pytest.approx((0, 200), abs=2)


def test_a_cmyk_jpeg_is_read() -> None:
    photo = encode(drawing(255, 20).convert("RGB").convert("CMYK"), "JPEG")
    assert corner_and_middle(read_pixels(photo)) == pytest.approx((0, 235), abs=3)


def test_a_large_jpeg_keeps_its_size_until_it_is_decoded() -> None:
    photo = encode(drawing(0, 200, (2_000, 2_000)), "JPEG")
    assert open_picture(photo).size == (2_000, 2_000)
    assert corner_and_middle(read_pixels(photo)) == pytest.approx((0, 200), abs=2)


def test_jpeg_has_a_pixel_limit_of_its_own() -> None:
    picture = drawing(0, 200, (40, 40))
    read_pixels(encode(picture, "JPEG"), max_pixels=1, max_jpeg_pixels=1_600)
    read_pixels(encode(picture, "PNG"), max_pixels=1_600, max_jpeg_pixels=1)
    with pytest.raises(PictureTooLarge, match=r"^The picture is 40×40 = 1,600 pixels, over the limit of 1,599\.$"):
        read_pixels(encode(picture, "JPEG"), max_jpeg_pixels=1_599)
    with pytest.raises(PictureTooLarge, match=r"^The picture is 40×40 = 1,600 pixels, over the limit of 1,599\.$"):
        read_pixels(encode(picture, "PNG"), max_pixels=1_599)


def test_a_jpeg_with_too_many_scans_is_refused() -> None:
    photo = encode(drawing(0, 200), "JPEG", progressive=True)
    read_pixels(photo)
    last_scan = photo[photo.rindex(b"\xff\xc4") : -2]  # with its Huffman table
    assert b"\xff\xda" in last_scan
    with pytest.raises(PictureTooLarge, match=rf"scans, over the limit of {MAX_JPEG_SCANS}\."):
        read_pixels(photo[:-2] + last_scan * MAX_JPEG_SCANS + photo[-2:])


def test_an_empty_file_is_broken() -> None:
    with pytest.raises(BrokenPicture, match=r"^The file is empty\.$"):
        read_pixels(b"")
