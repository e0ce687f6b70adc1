"""Preprocessing: a picture -> pixels, uint8 [28,28], as in Fashion-MNIST: a light garment on a black background."""

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageOps
from PIL.ImageFile import ImageFile

from classifier.picture import FRAME, MAX_JPEG_PIXELS, MAX_PIXELS, UNREADABLE, BrokenPicture, open_picture
from classifier.pixels import SIDE, Pixels
from classifier.sanitize import orientation

WORKING_SIDE = 8 * SIDE  # pixels; larger pictures are reduced to this first
TILE_SIDE = 512  # pixels; a large picture is converted in tiles: 16 megapixels need 64 MB, and as a whole 250 MB
DRAFT_PIXELS = 2**22  # a JPEG of up to so many is decoded at no less than the working side on both sides
OPAQUE = 250  # alpha, of 255; a pixel with this or more is opaque
EVEN_LEVELS, EVEN_FRACTION = 16, 0.9  # a border is of one colour if so many of its pixels are so close to the median
LIGHT = 128  # grey level, of 255; a background with this or more is light
TURNS = {  # from the EXIF orientation to the transposition that makes the picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_pixels(content: bytes, max_pixels: int = MAX_PIXELS, max_jpeg_pixels: int = MAX_JPEG_PIXELS) -> Pixels:
    """Pixels, uint8 [28,28], 0 = background, 255 = brightest garment, of an encoded picture. Raises PictureError."""
    return preprocess(open_picture(content, max_pixels, max_jpeg_pixels))


def preprocess(picture: ImageFile) -> Pixels:
    """Pixels, uint8 [28,28], 0 = background, 255 = brightest garment, of a picture from `open_picture`.

    A 28×28 picture without transparent pixels passes unchanged. Any other is converted to grey, turned upright, padded
    to a square in its background colour, reduced by area averaging, and inverted if its background is light. Raises
    BrokenPicture.
    """
    try:
        adapted = adapt(picture)
    except UNREADABLE as error:
        raise BrokenPicture(f"The {picture.format} picture is damaged or incomplete.") from error
    return np.frombuffer(bytearray(adapted.tobytes()), np.uint8).reshape(SIDE, SIDE)


def adapt(picture: ImageFile) -> Image.Image:
    """The picture in mode "L" with 28×28 pixels."""
    if picture.size == (SIDE, SIDE) and not is_transparent(picture):
        return grey(picture)
    picture.draft("L", draft_size(*picture.size))  # JPEG only: decodes at 1/2, 1/4 or 1/8, but not below
    working = reduce(picture, max(picture.size) // (2 * WORKING_SIDE))
    working.thumbnail((WORKING_SIDE, WORKING_SIDE), Image.Resampling.BOX)
    opaque, background = on_background(upright(working, picture.info.get("exif", b"")), FRAME in picture.info)
    square = ImageOps.pad(opaque, (max(opaque.size),) * 2, color=background)
    reduced = square.resize((SIDE, SIDE), Image.Resampling.BOX)
    return ImageOps.invert(reduced) if background >= LIGHT else reduced


def draft_size(width: int, height: int) -> tuple[int, int]:
    """The least size at which a JPEG is decoded: of a large one only its longer side is the working side."""
    if width * height <= DRAFT_PIXELS:
        return WORKING_SIDE, WORKING_SIDE
    longest = max(width, height)
    return max(1, width * WORKING_SIDE // longest), max(1, height * WORKING_SIDE // longest)


def upright(picture: Image.Image, exif: bytes) -> Image.Image:
    """The picture turned by its EXIF orientation; with damaged EXIF data it is returned as it is."""
    try:
        turn = TURNS.get(orientation(exif))
    except struct.error:
        return picture
    return picture if turn is None else picture.transpose(turn)


def reduce(picture: Image.Image, factor: int) -> Image.Image:
    """The picture at 1/`factor` of its sides, by averaging: mode "RGBA" if a pixel is transparent, else "L"."""
    if factor < 2:
        return rgba(picture) if is_transparent(picture) else grey(picture)
    picture.load()
    width, height = picture.size
    has_alpha = may_be_transparent(picture)
    reduced = Image.new("RGBA" if has_alpha else "L", (-(-width // factor), -(-height // factor)))
    side = factor * max(1, TILE_SIDE // factor)
    opaque = True
    for top in range(0, height, side):
        for left in range(0, width, side):
            tile = picture.crop((left, top, min(width, left + side), min(height, top + side)))
            converted = rgba(tile, left, top) if has_alpha else grey(tile)
            opaque = opaque and (not has_alpha or is_opaque(converted))
            reduced.paste(converted.reduce(factor), (left // factor, top // factor))
    return reduced.convert("L") if has_alpha and opaque else reduced


def may_be_transparent(picture: Image.Image) -> bool:
    return picture.has_transparency_data or FRAME in picture.info


def is_transparent(picture: Image.Image) -> bool:
    """Whether any pixel is transparent. An alpha channel in which all pixels are opaque does not count."""
    return may_be_transparent(picture) and not is_opaque(rgba(picture))


def is_opaque(picture: Image.Image) -> bool:
    """Whether all pixels of a picture in mode "RGBA" are opaque."""
    return bool(np.asarray(picture.getchannel("A")).min() >= OPAQUE)


def rgba(picture: Image.Image, left: int = 0, top: int = 0) -> Image.Image:
    """The picture in mode "RGBA"; it may be a tile of a larger one, at `left` and `top`.

    Of 16-bit grey levels the transparent one is compared with all bits; Pillow would clip them first. Where the frame
    of a GIF does not reach, the picture is transparent, as in browsers; GIF89a has a background colour there.
    """
    if picture.mode.startswith("I"):
        alpha = np.where(np.asarray(picture) == picture.info["transparency"], 0, 255).astype(np.uint8)
        return Image.merge("LA", (grey(picture), Image.fromarray(alpha))).convert("RGBA")
    converted = picture.convert("RGBA")
    if frame := picture.info.get(FRAME):
        box = [max(0, edge - start) for edge, start in zip(frame, (left, top, left, top), strict=True)]
        inside = Image.new("L", picture.size)
        inside.paste(255, (box[0], box[1], box[2], box[3]))
        converted.putalpha(ImageChops.darker(converted.getchannel("A"), inside))
    return converted


def grey(picture: Image.Image) -> Image.Image:
    """The picture in mode "L", by Pillow's luma weights. Of 16 bits the upper 8 are kept; Pillow would clip them."""
    if picture.mode == "L":
        picture.load()
        return picture  # without the copy that convert makes
    if picture.mode.startswith("I"):
        return Image.fromarray((np.asarray(picture).clip(0, 2**16 - 1) >> 8).astype(np.uint8))
    return picture.convert("L")


def on_background(picture: Image.Image, framed: bool = False) -> tuple[Image.Image, int]:
    """The picture in mode "L", without transparency, and the grey level of its background.

    The background is the median of the opaque pixels of the border. If most of the border is transparent (a cut-out
    garment), the background is black for a light garment, else white. `framed`: the opaque part is a rectangle that may
    have a background of its own.
    """
    if picture.mode != "RGBA":
        return picture, int(np.median(border(np.asarray(picture))))
    levels, alpha = np.asarray(picture.convert("L")), np.asarray(picture.getchannel("A"))
    visible = border(alpha) >= OPAQUE
    if visible.mean() > 0.5:
        background = int(np.median(border(levels)[visible]))
    elif framed and (level := frame_background(levels, alpha)) is not None:
        background = level
    else:
        garment_level = np.average(levels, weights=alpha) if alpha.any() else 0
        background = 0 if garment_level >= LIGHT else 255
    opaque = Image.new("L", picture.size, background)
    opaque.paste(picture.convert("L"), mask=picture.getchannel("A"))
    return opaque, background


def frame_background(levels: Pixels, alpha: Pixels) -> int | None:
    """The grey level of the opaque rectangle's border, None if that has several or the whole rectangle has it."""
    rows, columns = (np.flatnonzero((alpha >= OPAQUE).any(axis)) for axis in (1, 0))
    if not len(rows):
        return None
    inner = levels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(int)
    edge = border(inner)
    median = int(np.median(edge))
    even = (abs(edge - median) <= EVEN_LEVELS).mean() > EVEN_FRACTION
    return median if even and (abs(inner - median) > EVEN_LEVELS).any() else None


def border(levels: NDArray[Any]) -> NDArray[Any]:
    """The outermost pixels of grey levels, uint8 [height,width], as uint8 [2 * width + 2 * height]."""
    return np.concatenate((levels[0], levels[-1], levels[:, 0], levels[:, -1]))
