"""From a decoded picture to a working picture: at most 224×224 pixels, upright, in colour, without transparency."""

import struct

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops
from PIL.ImageFile import ImageFile

from classifier import layout
from classifier.layout import Box
from classifier.picture import FRAME
from classifier.pixels import SIDE, Pixels
from classifier.sanitize import orientation

WORKING_SIDE = 8 * SIDE  # pixels; larger pictures are reduced to this first
TILE_SIDE = 512  # pixels; a large picture is converted in tiles: 16 megapixels need 64 MB, and as a whole 250 MB
DRAFT_PIXELS = 2**22  # a JPEG of up to so many is decoded at no less than the working side on both sides
OPAQUE = 250  # alpha, of 255; a pixel with this or more is opaque
LIGHT = 128  # grey level, of 255; a garment with this or more is light
LUMA = (0.299, 0.587, 0.114)  # of red, green and blue, as Pillow weighs them
TURNS = {  # from the EXIF orientation to the transposition that makes the picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def working_picture(picture: ImageFile, done: list[str]) -> Image.Image:
    """The picture in mode "RGB", reduced to at most 224×224 pixels. What is done to it is appended to `done`."""
    # JPEG only: decodes at 1/2, 1/4 or 1/8, but not below
    picture.draft("L" if picture.mode == "L" else "RGB", draft_size(*picture.size))
    working = reduce(picture, max(picture.size) // (2 * WORKING_SIDE))
    working.thumbnail((WORKING_SIDE, WORKING_SIDE), Image.Resampling.BOX)
    working = upright(working, picture.info.get("exif", b""), done)
    return on_background(working, done).convert("RGB")


def draft_size(width: int, height: int) -> tuple[int, int]:
    """The least size at which a JPEG is decoded: of a large one only its longer side is the working side."""
    if width * height <= DRAFT_PIXELS:
        return WORKING_SIDE, WORKING_SIDE
    longest = max(width, height)
    return max(1, width * WORKING_SIDE // longest), max(1, height * WORKING_SIDE // longest)


def upright(picture: Image.Image, exif: bytes, done: list[str]) -> Image.Image:
    """The picture turned by its EXIF orientation; with damaged EXIF data it is returned as it is."""
    try:
        turn = TURNS.get(orientation(exif))
    except struct.error:
        return picture
    if turn is None:
        return picture
    done.append("turned")
    return picture.transpose(turn)


def reduce(picture: Image.Image, factor: int) -> Image.Image:
    """The picture at 1/`factor` of its sides, by averaging: mode "RGBA" if a pixel is transparent, else "RGB", "L"."""
    if factor < 2:
        return rgba(picture) if is_transparent(picture) else opaque(picture)
    picture.load()
    width, height = picture.size
    has_alpha = may_be_transparent(picture)
    mode = "RGBA" if has_alpha else "L" if is_grey(picture) else "RGB"
    reduced = Image.new(mode, (-(-width // factor), -(-height // factor)))
    side = factor * max(1, TILE_SIDE // factor)
    is_all_opaque = True
    for top in range(0, height, side):
        for left in range(0, width, side):
            tile = picture.crop((left, top, min(width, left + side), min(height, top + side)))
            converted = rgba(tile, left, top) if has_alpha else opaque(tile)
            is_all_opaque = is_all_opaque and (not has_alpha or is_opaque(converted))
            reduced.paste(converted.reduce(factor), (left // factor, top // factor))
    return reduced.convert("RGB") if has_alpha and is_all_opaque else reduced


def is_grey(picture: Image.Image) -> bool:
    return picture.mode in {"1", "L"} or picture.mode.startswith("I")


def opaque(picture: Image.Image) -> Image.Image:
    """The picture without its alpha channel, in mode "L" or "RGB"."""
    return grey(picture) if is_grey(picture) else picture.convert("RGB")


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


def on_background(picture: Image.Image, done: list[str]) -> Image.Image:
    """The picture without transparency, and without what is transparent around it.

    If what is visible is a card or a disc with a garment on it, the transparent pixels get the colour of the card. If
    it is a garment that was cut out, they get what it stands out from: black for a light garment, else white.
    """
    if picture.mode != "RGBA":
        return picture
    done.append("laid on a background")
    alpha = np.asarray(picture.getchannel("A"))
    if 0 < (most := int(alpha.max())) < 255:  # of a picture that is half transparent everywhere
        picture.putalpha(picture.getchannel("A").point(lambda level: level * 255 // most))
        alpha = np.asarray(picture.getchannel("A"))
    box = layout.visible_box(alpha)
    if box is None:
        return Image.new("RGB", picture.size)
    left, top, right, bottom = box
    colours = picture.convert("RGB")
    colour = layout.card_colour(planes(colours.crop(box)), alpha[top:bottom, left:right])
    if colour is None:
        light = np.average(luma(colours), weights=alpha) >= LIGHT
        background = (0, 0, 0) if light else (255, 255, 255)
    else:
        background = tuple(colour.tolist())
        colours = cropped(colours, box, done)
        picture = picture.crop(box)
    laid = Image.new("RGB", colours.size, background)
    laid.paste(colours, mask=picture.getchannel("A"))
    return laid


def luma(picture: Image.Image) -> NDArray[np.float32]:
    """The grey levels, float32 [height,width] in 0…255, of a picture in mode "RGB"."""
    return np.asarray(picture) @ np.array(LUMA, np.float32)


def planes(picture: Image.Image) -> Pixels:
    """uint8 [3,height,width] of a picture in mode "RGB"."""
    return np.ascontiguousarray(np.asarray(picture).transpose(2, 0, 1))


def cropped(picture: Image.Image, box: Box, done: list[str]) -> Image.Image:
    if box == (0, 0, *picture.size):
        return picture
    if "cropped" not in done:
        done.append("cropped")
    return picture.crop(box)


def luma_of(colour: Pixels) -> float:
    """The grey level of a colour, uint8 [3]."""
    return float(colour @ np.array(LUMA))
