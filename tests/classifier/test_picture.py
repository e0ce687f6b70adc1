"""Pictures that decoders read differently: transparency, checksums, frames, and limits of cost."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from classifier.picture import BrokenPicture, PictureTooLarge, open_picture
from tests.classifier.garments import background_and_cloth, corner_and_middle, enlarged, garment, grey_png, png
from tests.classifier.reading import read_pixels
from tests.classifier.test_hostile_pictures import chunk, encode

DARK_ON_WHITE = (0, 215)  # corner and middle of a garment of level 40 on white


def transparent(levels: tuple[int, ...]) -> bytes:
    return chunk(b"tRNS", struct.pack(f">{len(levels)}H", *levels))


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_the_transparent_grey_level_is_compared_with_all_bits(depth: int) -> None:
    most = 2**depth - 1
    dark = most * 40 // 255
    levels = np.where(garment() == 255, most, dark)
    expected = (0, 255 - round(dark * 255 / most))
    assert corner_and_middle(read_pixels(grey_png(levels, depth, transparent((most,))))) == pytest.approx(
        expected, abs=1
    )


def test_a_grey_level_beside_the_transparent_one_is_opaque() -> None:
    levels = np.where(garment() == 255, 0xFFFE, 40 * 257)
    near, none = grey_png(levels, 16, transparent((0xFFFF,))), grey_png(levels, 16)
    assert np.array_equal(read_pixels(near), read_pixels(none))
    cut_out = np.where(garment() == 255, 0x2801, 0x2800)  # the same upper byte
    assert corner_and_middle(read_pixels(grey_png(cut_out, 16, transparent((0x2801,))))) == DARK_ON_WHITE


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("other", [0, 1])
def test_the_transparent_colour_is_compared_with_all_bits(depth: int, other: int) -> None:
    """Of 16 bits the background differs from the garment in the lowest bit of blue only."""
    background, cloth = (
        ((200, 40, 41), (200, 40, 40)) if depth == 8 else ((0xC800, 0x2800, 0x2801), (0xC800, 0x2800, 0x2800))
    )
    colours = np.where(garment()[..., None] == 255, background, cloth)
    kind, size = (">u2", 2) if depth == 16 else ("u1", 1)
    rows = colours.astype(kind).view(np.uint8).reshape(112, 3 * 112 * size)
    content = png(rows, (112, 112), depth, 2, transparent((*background[:2], background[2] + other)))
    level = (200 * 299 + 40 * 587 + 40 * 114) / 1000
    if other:  # nothing is transparent: all of one colour
        assert not read_pixels(content).any()
    else:
        assert corner_and_middle(read_pixels(content)) == pytest.approx((0, 255 - level), abs=1)


def test_bits_of_the_transparent_level_beyond_the_depth_do_not_count() -> None:
    assert corner_and_middle(read_pixels(grey_png(garment().astype(int), 8, transparent((0x7FFF,))))) == DARK_ON_WHITE


@pytest.mark.parametrize("noise", [0, 6])  # under and over 8 KiB
@pytest.mark.parametrize(
    "kind", [b"tEXt", b"zTXt", b"iTXt", b"gAMA", b"tRNS", b"iCCP", b"pHYs", b"eXIf", b"abCd", b"acTL"]
)
@pytest.mark.parametrize("fault", ["checksum", "content"])
def test_an_ancillary_chunk_with_a_fault_is_ignored(noise: int, kind: bytes, fault: str) -> None:
    levels = np.clip(garment(200) + np.random.default_rng(0).normal(0, noise, (200, 200)), 0, 255).astype(np.uint8)
    content = encode(Image.fromarray(levels), "PNG")
    bad = chunk(kind, b"\0\1\2") if fault == "content" else chunk(kind, b"\0\xff")[:-4] + bytes(4)
    assert np.array_equal(read_pixels(content[:33] + bad + content[33:]), read_pixels(content))


def test_a_critical_chunk_with_a_wrong_checksum_is_broken() -> None:
    content = bytearray(encode(Image.fromarray(garment()), "PNG"))
    content[29] ^= 1
    with pytest.raises(BrokenPicture):
        read_pixels(bytes(content))


def gif_on_canvas(picture: Image.Image, canvas: tuple[int, int], at: tuple[int, int], **options: int) -> bytes:
    """A GIF whose frame stands at this place of a larger canvas."""
    content = bytearray(encode(picture, "GIF", **options))
    frame = content.index(b",", 13 + (3 << (content[10] & 7) + 1 if content[10] & 128 else 0))
    content[6:10] = struct.pack("<HH", *canvas)
    content[frame + 1 : frame + 5] = struct.pack("<HH", *at)
    return bytes(content)


@pytest.mark.parametrize("at", [(56, 56), (0, 0), (112, 0), (30, 112)])
@pytest.mark.parametrize("scale", [1, 8])  # the larger one is converted in tiles
def test_where_a_gif_frame_does_not_reach_is_its_background(at: tuple[int, int], scale: int) -> None:
    picture = Image.fromarray(enlarged(garment(112, size=0.75), scale))
    pixels = read_pixels(gif_on_canvas(picture, (224 * scale, 224 * scale), (at[0] * scale, at[1] * scale)))
    assert background_and_cloth(pixels) == pytest.approx(DARK_ON_WHITE, abs=1)
    np.testing.assert_allclose(pixels.astype(int), read_pixels(encode(picture, "GIF")), atol=3)


def test_a_gif_frame_trimmed_to_a_garment_that_fills_it_is_a_cut_out() -> None:
    plain = Image.new("L", (112, 112), 40)
    assert (read_pixels(gif_on_canvas(plain, (224, 224), (56, 56))) == 215).all()


def test_a_gif_frame_trimmed_to_its_garment_is_a_cut_out() -> None:
    picture = Image.fromarray(garment(112, size=1.0))
    assert corner_and_middle(read_pixels(gif_on_canvas(picture, (224, 224), (56, 56)))) == DARK_ON_WHITE


def test_each_side_has_a_limit() -> None:
    with pytest.raises(
        PictureTooLarge, match=r"^The picture is 1×70000 pixels, over the limit of 65,535 for each side\.$"
    ):
        read_pixels(grey_png(np.zeros((70_000, 1), int), 8))


def test_a_small_file_may_have_fewer_pixels_than_a_large_one(tmp_path: Path) -> None:
    small = encode(Image.new("RGBA", (3_000, 2_500)), "WEBP", lossless=True, method=0)
    with pytest.raises(PictureTooLarge, match=r"over the limit of [\d,]+ for a WebP file of under 100,000 bytes\.$"):
        open_picture(small)
    assert open_picture(small + b"\0" * 100_000).size == (3_000, 2_500)


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA"])
def test_a_screenshot_of_3840_by_2160_passes(mode: str) -> None:
    content = encode(Image.new(mode, (3_840, 2_160)), "PNG")
    assert len(content) < 100_000
    read_pixels(content)


def test_a_jpeg_of_52_megapixels_passes() -> None:
    content = encode(Image.fromarray(garment(900)).resize((8_160, 6_144)), "JPEG", quality=30)
    assert corner_and_middle(read_pixels(content)) == pytest.approx(DARK_ON_WHITE, abs=2)


def test_compressed_texts_are_not_read() -> None:
    text = zlib.compress(b"\xf0\x9f\x98\x80" + bytes(2**20 - 8), 9)
    texts = b"".join(chunk(b"iTXt", b"%d\0\1\0\0\0" % number + text) for number in range(7))
    content = encode(Image.fromarray(garment(28)), "PNG")
    picture = open_picture(content[:33] + texts + content[33:])
    assert isinstance(picture.fp, io.BytesIO)
    assert len(picture.fp.getvalue()) < 1_000
    assert not picture.info.keys() & {"0", "1"}


@pytest.mark.parametrize("behind", [False, True], ids=["before the pixels", "behind them"])
def test_a_png_with_a_second_header_is_broken(behind: bool) -> None:
    """Pillow takes the last header, and the limits are those of the first."""
    rows = zlib.compress(bytes(501 * 4_000))
    small, large = (chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 3, 0, 0, 0)) for side in (1, 4_000))
    palette, pixels = chunk(b"PLTE", bytes(6)), chunk(b"IDAT", rows)
    chunks = (small, palette, pixels, large) if behind else (small, large, palette, pixels)
    with pytest.raises(BrokenPicture, match="its header is damaged"):
        open_picture(b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + chunk(b"IEND"))
