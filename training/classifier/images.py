"""From the bytes of a picture, within limits, to the uint8 [28,28] that Fashion-MNIST would have made of it."""

import io
import struct

import numpy as np
from PIL import Image, ImageOps
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from training.classifier.model import SIDE, Pixels
from training.classifier.trim import TooManyParts, orientation, trim_gif, trim_jpeg, trim_png

MAX_PIXELS = 16_000_000
MAX_JPEG_PIXELS = 50_000_000  # a JPEG is decoded at a fraction of its size
MAX_JPEG_SCANS = 24  # encoders write about ten; each takes another pass over all pixels
MAX_RLE_PIXELS = 1_000_000  # of a compressed BMP, which Pillow decodes in Python
SMALL_BYTES = 8 * 2**10  # up to this size nothing can take long, and a picture is taken with all that is in it
WORKING_SIDE = 8 * SIDE  # pixels; larger pictures are reduced to this before they are padded
OPAQUE = 250  # alpha of 255 from which on nothing shows through that counts
LIGHT = 128  # grey level from which on a ground is light
START_OF_SCAN = b"\xff\xda"  # inside of a JPEG's compressed data, 255 is always followed by 0 or a restart marker

SIGNATURES: tuple[tuple[bytes, type[ImageFile]], ...] = (
    (b"\x89PNG\r\n\x1a\n", PngImageFile),
    (b"\xff\xd8\xff", JpegImageFile),
    (b"RIFF", WebPImageFile),  # and "WEBP" behind the length
    (b"GIF87a", GifImageFile),
    (b"GIF89a", GifImageFile),
    (b"BM", BmpImageFile),
)
TRIMS = {PngImageFile: trim_png, JpegImageFile: trim_jpeg, GifImageFile: trim_gif}
RLE = (BmpImageFile.COMPRESSIONS["RLE8"], BmpImageFile.COMPRESSIONS["RLE4"])
TURNS = {  # by EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
ACCEPTED = "PNG, JPEG, WebP, GIF, BMP"
UNREADABLE = (  # what Pillow raises on a damaged picture
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
)


class PictureError(Exception):
    """A picture is refused; one sentence for clients, with the limit and the value where there is one.

    PictureError
      x BrokenPicture        an accepted signature that does not decode, or no bytes at all
      x PictureTooLarge      more pixels than the limit, or more parts
      x UnsupportedPicture   no accepted signature
    """


class BrokenPicture(PictureError):
    pass


class PictureTooLarge(PictureError):
    pass


class UnsupportedPicture(PictureError):
    pass


def to_fashion(content: bytes, max_pixels: int = MAX_PIXELS, max_jpeg_pixels: int = MAX_JPEG_PIXELS) -> Pixels:
    """uint8 [28,28], 0 = ground, 255 = brightest garment, of an encoded picture.

    A 28×28 picture without real transparency is taken as it is. Any other is made grey, padded to a square in its own
    ground colour, reduced by area averaging, and inverted when its border is light. Raises PictureError.
    """
    return decode(open_picture(content, max_pixels, max_jpeg_pixels))


def decode(picture: ImageFile) -> Pixels:
    """The second half of `to_fashion`, which takes as long as the picture is large. Raises BrokenPicture."""
    try:
        adapted = adapt(picture)
    except UNREADABLE as error:
        raise BrokenPicture(f"The {picture.format} picture is damaged or incomplete.") from error
    return np.frombuffer(bytearray(adapted.tobytes()), np.uint8).reshape(SIDE, SIDE)


def open_picture(content: bytes, max_pixels: int = MAX_PIXELS, max_jpeg_pixels: int = MAX_JPEG_PIXELS) -> ImageFile:
    """The picture with its header read and its size within the limits, not decoded yet. Raises PictureError."""
    if not content:
        raise BrokenPicture("The file is empty.")
    decoder = next((decoder for signature, decoder in SIGNATURES if content.startswith(signature)), None)
    if decoder is None or (decoder is WebPImageFile and content[8:12] != b"WEBP"):
        raise UnsupportedPicture(f"The file is not a picture of an accepted format: {ACCEPTED}.")
    limit = max_jpeg_pixels if decoder is JpegImageFile else max_pixels
    try:
        exif = b""
        if len(content) > SMALL_BYTES and decoder in TRIMS:
            content, exif = TRIMS[decoder](content)
        if decoder is JpegImageFile and (scans := content.count(START_OF_SCAN)) > MAX_JPEG_SCANS:
            raise PictureTooLarge(f"The JPEG picture has {scans:,} scans, over the limit of {MAX_JPEG_SCANS}.")
        if decoder is WebPImageFile:  # its decoder takes memory for the whole canvas as soon as it is opened
            check_size(webp_size(content), limit)
        picture = decoder(io.BytesIO(content))  # not Image.open: it would apply Pillow's own pixel limit first
    except UNREADABLE as error:
        raise BrokenPicture(f"The file begins like a {decoder.format} picture, but its header is damaged.") from error
    except Image.DecompressionBombError as error:  # a GIF frame that is larger than its canvas
        raise PictureTooLarge(f"The picture is over the limit of {limit:,} pixels.") from error
    except TooManyParts as error:
        raise PictureTooLarge(str(error)) from error
    check_size(picture.size, limit)
    if exif:
        picture.info["exif"] = exif
    if decoder is BmpImageFile and picture.info["compression"] in RLE:
        check_rle(picture)
    return picture


def check_rle(picture: ImageFile) -> None:
    """Bounds a compressed BMP, and what is read of it, to the two bytes a pixel and a row that any encoder needs."""
    check_size(picture.size, MAX_RLE_PIXELS)
    assert picture.fp is not None
    picture.fp.truncate(picture.tile[0].offset + 2 * (picture.width + 2) * picture.height)


def check_size(size: tuple[int, int], limit: int) -> None:
    width, height = size
    if width * height > limit:
        raise PictureTooLarge(
            f"The picture is {width}×{height} = {width * height:,} pixels, over the limit of {limit:,}."
        )


def webp_size(content: bytes) -> tuple[int, int]:
    """Width and height from the first chunk of a WebP file (RFC 9649, sections 2.5 to 2.7)."""
    kind, bits = content[12:16], int.from_bytes(content[20:30].ljust(10, b"\0"), "little")
    if kind == b"VP8X":  # 32 bits of flags, then both sizes less one in 24 bits each
        return (bits >> 32 & 0xFFFFFF) + 1, (bits >> 56 & 0xFFFFFF) + 1
    if kind == b"VP8L":  # a signature byte, then both sizes less one in 14 bits each
        return (bits >> 8 & 0x3FFF) + 1, (bits >> 22 & 0x3FFF) + 1
    return bits >> 48 & 0x3FFF, bits >> 64 & 0x3FFF  # VP8: a frame tag and a start code, then 14 bits each


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
