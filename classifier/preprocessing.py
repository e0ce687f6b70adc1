"""A picture -> uint8 [28,28] as Fashion-MNIST draws it: a light garment on a black background."""

import struct

import numpy as np
from PIL import Image, ImageOps
from PIL.ImageFile import ImageFile

from classifier.networks import SIDE, Pixels
from classifier.picture import MAX_JPEG_PIXELS, MAX_PIXELS, UNREADABLE, BrokenPicture, open_picture
from classifier.sanitize import orientation

WORKING_SIDE = 8 * SIDE  # pixels; larger pictures are reduced to this before they are padded
OPAQUE = 250  # alpha of 255 from which on a pixel counts as opaque
LIGHT = 128  # grey level from which on a background is light
TURNS = {  # by EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_pixels(content: bytes, max_pixels: int = MAX_PIXELS, max_jpeg_pixels: int = MAX_JPEG_PIXELS) -> Pixels:
    """uint8 [28,28], 0 = background, 255 = brightest garment, of an encoded picture. Raises PictureError."""
    return preprocess(open_picture(content, max_pixels, max_jpeg_pixels))


def preprocess(picture: ImageFile) -> Pixels:
    """uint8 [28,28], 0 = background, 255 = brightest garment, of a picture that `open_picture` opened.

    A 28×28 picture without real transparency passes unchanged. Any other is converted to grey, padded to a square in
    its background colour, reduced by area averaging, and inverted when its border is light. Raises BrokenPicture.
    """
    try:
        adapted = adapt(picture)
    except UNREADABLE as error:
        raise BrokenPicture(f"The {picture.format} picture is damaged or incomplete.") from error
    return np.frombuffer(bytearray(adapted.tobytes()), np.uint8).reshape(SIDE, SIDE)


def adapt(picture: ImageFile) -> Image.Image:
    """The mode "L" picture of 28×28 pixels."""
    if picture.size == (SIDE, SIDE) and not is_transparent(picture):
        return grey(picture)
    picture.draft("L", (WORKING_SIDE, WORKING_SIDE))  # JPEG alone: decodes at 1/2, 1/4 or 1/8, never below this size
    working = picture.convert("RGBA") if is_transparent(picture) else grey(picture)
    working.thumbnail((WORKING_SIDE, WORKING_SIDE), Image.Resampling.BOX)
    garment, ground = on_ground(upright(working, picture.info.get("exif", b"")))
    square = ImageOps.pad(garment, (max(garment.size),) * 2, color=ground)
    reduced = square.resize((SIDE, SIDE), Image.Resampling.BOX)
    return ImageOps.invert(reduced) if ground >= LIGHT else reduced


def upright(picture: Image.Image, exif: bytes) -> Image.Image:
    """Turned as its EXIF data says; of a picture whose EXIF data is damaged, the pixels still count."""
    try:
        turn = TURNS.get(orientation(exif))
    except struct.error:
        return picture
    return picture if turn is None else picture.transpose(turn)


def is_transparent(picture: Image.Image) -> bool:
    """Whether any pixel lets something through; an alpha channel alone does not count."""
    if not picture.has_transparency_data:
        return False
    return bool(np.asarray(picture.convert("RGBA").getchannel("A")).min() < OPAQUE)


def grey(picture: Image.Image) -> Image.Image:
    """Mode "L", by Pillow's luma weights; 16-bit pictures keep their upper byte, which Pillow would clip."""
    if picture.mode == "L":
        picture.load()
        return picture  # convert would copy it
    if picture.mode.startswith("I"):
        return Image.fromarray((np.asarray(picture).clip(0, 2**16 - 1) >> 8).astype(np.uint8))
    return picture.convert("L")


def on_ground(picture: Image.Image) -> tuple[Image.Image, int]:
    """The mode "L" picture and the grey level of its ground.

    The ground is the median of what can be seen of the border. A garment that is cut out, most of its border
    transparent, is laid on black or white, whichever it stands out from.
    """
    if picture.mode != "RGBA":
        return picture, int(np.median(border(np.asarray(picture))))
    levels, alpha = np.asarray(picture.convert("L")), np.asarray(picture.getchannel("A"))
    visible = border(alpha) >= OPAQUE
    if visible.mean() > 0.5:
        ground = int(np.median(border(levels)[visible]))
    else:
        garment_level = np.average(levels, weights=alpha) if alpha.any() else 0
        ground = 0 if garment_level >= LIGHT else 255
    laid = Image.new("L", picture.size, ground)
    laid.paste(picture.convert("L"), mask=picture.getchannel("A"))
    return laid, ground


def border(levels: Pixels) -> Pixels:
    """The outermost pixels of uint8 [height,width], one after another."""
    return np.concatenate((levels[0], levels[-1], levels[:, 0], levels[:, -1]))
