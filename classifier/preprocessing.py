"""Preprocessing: a picture -> pixels, uint8 [28,28], as in Fashion-MNIST: a light garment on a black background."""

import struct

import numpy as np
from PIL import Image, ImageOps
from PIL.ImageFile import ImageFile

from classifier.networks import SIDE, Pixels
from classifier.picture import MAX_JPEG_PIXELS, MAX_PIXELS, UNREADABLE, BrokenPicture, open_picture
from classifier.sanitize import orientation

WORKING_SIDE = 8 * SIDE  # pixels; larger pictures are reduced to this first
OPAQUE = 250  # alpha, of 255; a pixel with this or more is opaque
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
    picture.draft("L", (WORKING_SIDE, WORKING_SIDE))  # JPEG only: decodes at 1/2, 1/4 or 1/8, but not below
    working = picture.convert("RGBA") if is_transparent(picture) else grey(picture)
    working.thumbnail((WORKING_SIDE, WORKING_SIDE), Image.Resampling.BOX)
    opaque, background = on_background(upright(working, picture.info.get("exif", b"")))
    square = ImageOps.pad(opaque, (max(opaque.size),) * 2, color=background)
    reduced = square.resize((SIDE, SIDE), Image.Resampling.BOX)
    return ImageOps.invert(reduced) if background >= LIGHT else reduced


def upright(picture: Image.Image, exif: bytes) -> Image.Image:
    """The picture turned by its EXIF orientation; with damaged EXIF data it is returned as it is."""
    try:
        turn = TURNS.get(orientation(exif))
    except struct.error:
        return picture
    return picture if turn is None else picture.transpose(turn)


def is_transparent(picture: Image.Image) -> bool:
    """Whether any pixel is transparent. An alpha channel in which all pixels are opaque does not count."""
    if not picture.has_transparency_data:
        return False
    return bool(np.asarray(picture.convert("RGBA").getchannel("A")).min() < OPAQUE)


def grey(picture: Image.Image) -> Image.Image:
    """The picture in mode "L", by Pillow's luma weights. Of 16 bits the upper 8 are kept; Pillow would clip them."""
    if picture.mode == "L":
        picture.load()
        return picture  # without the copy that convert makes
    if picture.mode.startswith("I"):
        return Image.fromarray((np.asarray(picture).clip(0, 2**16 - 1) >> 8).astype(np.uint8))
    return picture.convert("L")


def on_background(picture: Image.Image) -> tuple[Image.Image, int]:
    """The picture in mode "L", without transparency, and the grey level of its background.

    The background is the median of the opaque pixels of the border. If most of the border is transparent (a cut-out
    garment), the background is black for a light garment, else white.
    """
    if picture.mode != "RGBA":
        return picture, int(np.median(border(np.asarray(picture))))
    levels, alpha = np.asarray(picture.convert("L")), np.asarray(picture.getchannel("A"))
    visible = border(alpha) >= OPAQUE
    if visible.mean() > 0.5:
        background = int(np.median(border(levels)[visible]))
    else:
        garment_level = np.average(levels, weights=alpha) if alpha.any() else 0
        background = 0 if garment_level >= LIGHT else 255
    opaque = Image.new("L", picture.size, background)
    opaque.paste(picture.convert("L"), mask=picture.getchannel("A"))
    return opaque, background


def border(levels: Pixels) -> Pixels:
    """The outermost pixels of grey levels, uint8 [height,width], as uint8 [2 * width + 2 * height]."""
    return np.concatenate((levels[0], levels[-1], levels[:, 0], levels[:, -1]))
