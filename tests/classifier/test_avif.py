"""AVIF: sizes from its boxes and from AV1's headers, alpha channels of several encoders, metadata."""

import io
import struct
import time
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from classifier.avif import Avif, is_avif, trim_avif
from classifier.boxes import boxes
from classifier.picture import BrokenPicture, PictureTooLarge, UnsupportedPicture, open_picture
from tests.classifier.garments import boot, corner_and_middle, garment
from tests.classifier.reading import read_pixels
from tests.classifier.test_hostile_pictures import encode

DRAWING = Image.fromarray(garment())
CUT_OUT = DRAWING.convert("RGBA")
CUT_OUT.putalpha(Image.fromarray(np.where(garment() == 255, 0, 255).astype(np.uint8)))
OPAQUE, ALPHA = encode(DRAWING.convert("RGB"), "AVIF", quality=90), encode(CUT_OUT, "AVIF", quality=90)


def box(content: bytes, *path: bytes) -> tuple[int, int]:
    """Start and end of the content of the first box at this path."""
    start, end = 0, len(content)
    for kind in path:
        start, end = next((start, stop) for found, start, stop in boxes(content, start, end) if found == kind)
        start += 4 if kind == b"meta" else 0
    return start, end


def resized(content: bytes, places: list[int], at: int, removed: int, added: bytes) -> bytes:
    """The AVIF with some bytes replaced, the sizes of the boxes at these places and the offsets of items corrected."""
    grown = len(added) - removed
    result = bytearray(content)
    for place in places:
        struct.pack_into(">I", result, place, struct.unpack_from(">I", result, place)[0] + grown)
    for place, size in Avif(content).offsets:
        offset = int.from_bytes(result[place : place + size]) + grown
        result[place : place + size] = offset.to_bytes(size)
    result[at : at + removed] = added
    return bytes(result)


def alpha_without_size() -> bytes:
    """As cavif wrote it until 2021: no `ispe` for the alpha channel."""
    start, _ = box(ALPHA, b"meta", b"iprp", b"ipma")
    sizes = [number for number, kind in enumerate(Avif(ALPHA).properties, 1) if kind == b"ispe"]
    [(place, numbers)] = [
        (place, numbers) for item, (place, numbers) in Avif(ALPHA).associations.items() if item != Avif(ALPHA).primary
    ]
    kept = bytes(ALPHA[place + 1 + i] for i, number in enumerate(numbers) if number not in sizes)
    outer = [box(ALPHA, b"meta")[0] - 12, box(ALPHA, b"meta", b"iprp")[0] - 8, start - 8]
    return resized(ALPHA, outer, place, 1 + len(numbers), bytes((len(kept),)) + kept)


def associations_in_two_boxes() -> bytes:
    """As Link-U's cavif writes it: one box of associations for each item, with the same flags."""
    start, end = box(ALPHA, b"meta", b"iprp", b"ipma")
    entries = []
    for item, (place, numbers) in Avif(ALPHA).associations.items():
        entry = struct.pack(">HB", item, len(numbers)) + ALPHA[place + 1 : place + 1 + len(numbers)]
        entries.append(struct.pack(">I4sII", 16 + len(entry), b"ipma", 0, 1) + entry)
    outer = [box(ALPHA, b"meta")[0] - 12, box(ALPHA, b"meta", b"iprp")[0] - 8]
    return resized(ALPHA, outer, start - 8, end - start + 8, b"".join(entries))


def alpha_of_no_item() -> bytes:
    """As GPAC wrote it: the alpha channel refers to item 0."""
    start, _ = box(ALPHA, b"meta", b"iref")
    content = bytearray(ALPHA)
    at = content.index(b"auxl", start)
    content[at + 8 : at + 10] = b"\0\0"
    return bytes(content)


@pytest.mark.parametrize("make", [lambda: ALPHA, alpha_without_size, associations_in_two_boxes, alpha_of_no_item])
def test_an_alpha_channel_is_read_as_any_encoder_wrote_it(make: Callable[[], bytes]) -> None:
    content = make()
    assert open_picture(content).mode == "RGBA"
    assert np.array_equal(read_pixels(content), read_pixels(ALPHA))
    assert corner_and_middle(read_pixels(content)) == pytest.approx((0, 215), abs=2)


@pytest.mark.parametrize("subsampling", ["4:0:0", "4:2:0", "4:2:2", "4:4:4"])
@pytest.mark.parametrize("size", [(112, 112), (113, 111), (1, 1)])
def test_avif_is_read(subsampling: str, size: tuple[int, int]) -> None:
    picture = DRAWING.resize(size)
    content = encode(picture.convert("RGB"), "AVIF", subsampling=subsampling, quality=90)
    assert open_picture(content).size == size
    if size != (1, 1):
        assert corner_and_middle(read_pixels(content)) == pytest.approx((0, 215), abs=3)


def test_the_first_frame_of_a_sequence_is_read() -> None:
    frames = [DRAWING.convert("RGB"), Image.new("RGB", DRAWING.size)]
    content = encode(frames[0], "AVIF", save_all=True, append_images=frames[1:], quality=90)
    assert corner_and_middle(read_pixels(content)) == pytest.approx((0, 215), abs=3)
    assert trim_avif(content).coded_pixels <= 3 * 112 * 112


@pytest.mark.parametrize("brands", [b"mif1\0\0\0\0avif", b"avis\0\0\0\0mif1", b"miaf\0\0\0\0mif1avif"])
def test_any_brand_may_name_avif(brands: bytes) -> None:
    assert is_avif(struct.pack(">I", 8 + len(brands)) + b"ftyp" + brands)


@pytest.mark.parametrize("brands", [b"heic\0\0\0\0mif1", b"mif1\0\0\0\0heic", b"isom\0\0\0\0mp42"])
def test_other_brands_are_no_avif(brands: bytes) -> None:
    with pytest.raises(UnsupportedPicture):
        open_picture(struct.pack(">I", 8 + len(brands)) + b"ftyp" + brands + bytes(50))


def with_size(content: bytes, size: tuple[int, int]) -> bytes:
    """The AVIF with another size in all its `ispe`."""
    changed = bytearray(content)
    at = 0
    while (at := content.find(b"ispe", at + 1)) > 0:
        struct.pack_into(">II", changed, at + 8, *size)
    return bytes(changed)


def test_the_pixel_limit_refuses_an_avif_by_its_header() -> None:
    with pytest.raises(PictureTooLarge, match=r"^The picture is 16000×16000 = 256,000,000 pixels, over the limit of"):
        open_picture(with_size(OPAQUE, (16_000, 16_000)))
    with pytest.raises(PictureTooLarge, match=r"over the limit of [\d,]+ for an? AVIF file of under 100,000 bytes"):
        open_picture(with_size(OPAQUE, (4_000, 4_000)))


def test_frames_larger_than_the_size_in_the_header_are_refused() -> None:
    """The AV1 frame is larger than `ispe` says."""
    large = encode(Image.new("RGB", (6_000, 4_000)), "AVIF", speed=10)
    assert trim_avif(large).coded_pixels == 24_000_000
    with pytest.raises(PictureTooLarge, match=r"tiles, layers and alpha channel, over the limit"):
        open_picture(with_size(large, (100, 100)))


def test_exif_data_of_an_avif_are_not_read() -> None:
    exif = Image.Exif()
    exif[0x10E] = "words" * 1_000
    picture = open_picture(encode(DRAWING, "AVIF", exif=exif, xmp=b"<x/>"))
    assert not picture.info.keys() & {"exif", "xmp"}


def exif_of(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x112] = orientation
    return exif


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_avif_is_turned_by_its_properties(orientation: int) -> None:
    photo = Image.fromarray(boot())
    expected, turned = (read_pixels(encode(photo, kind, exif=exif_of(orientation))) for kind in ("PNG", "AVIF"))
    np.testing.assert_allclose(turned.astype(int), expected, atol=8)
    assert np.array_equal(expected, read_pixels(encode(photo, "PNG"))) == (orientation == 1)


def test_an_avif_with_many_boxes_or_units_is_refused() -> None:
    empty = struct.pack(">I4s", 8, b"free")
    for content in (OPAQUE[:-1], OPAQUE[: len(OPAQUE) // 2]):
        with pytest.raises(BrokenPicture):
            read_pixels(content)
    with pytest.raises(BrokenPicture):
        open_picture(OPAQUE[:32] + empty * 10_000 + OPAQUE[32:])


def test_trimming_keeps_the_pixels() -> None:
    for content in (OPAQUE, ALPHA):
        with Image.open(io.BytesIO(content)) as one, Image.open(io.BytesIO(trim_avif(content).content)) as other:
            assert np.array_equal(np.asarray(one), np.asarray(other))


def tiny_boxes(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), kind) + content


FILE_TYPE = tiny_boxes(b"ftyp", b"avif\0\0\0\0avifmif1")
MANY = {
    "boxes": tiny_boxes(b"free", b"") * 1_000_000,
    "nested boxes": struct.pack(">I4s", 8_000_000, b"trak") * 1_000_000,
    "properties": tiny_boxes(b"meta", bytes(4) + tiny_boxes(b"ipco", tiny_boxes(b"ispe", b"") * 1_000_000)),
    "extents": tiny_boxes(
        b"meta", bytes(4) + tiny_boxes(b"iloc", bytes(6) + b"\xea\x60" + b"\0\1\0\0\xff\xff" * 60_000)
    ),
    "references": tiny_boxes(
        b"meta",
        bytes(4) + tiny_boxes(b"iref", bytes(4) + tiny_boxes(b"dimg", b"\0\1\xff\xff" + bytes(2 * 65_535)) * 60),
    ),
}


@pytest.mark.parametrize("name", MANY)
def test_an_avif_of_many_parts_is_refused_quickly(name: str) -> None:
    begin = time.process_time()
    with pytest.raises(BrokenPicture):
        open_picture(FILE_TYPE + MANY[name])
    assert time.process_time() - begin < 0.5  # each takes up to 0.01 s
