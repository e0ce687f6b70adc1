"""Opens an uploaded picture within limits: bytes -> PIL picture, header read, not decoded.

The format is found by the file's signature. Width and height are checked before anything is decoded, against
decompression bombs.
"""

import io
import struct

from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from classifier.sanitize import TooManyParts, trim_gif, trim_jpeg, trim_png

MAX_PIXELS = 16_000_000
MAX_JPEG_PIXELS = 50_000_000  # a JPEG is decoded at a fraction of its size
MAX_JPEG_SCANS = 24  # encoders write about ten; each takes another pass over all pixels
MAX_RLE_PIXELS = 1_000_000  # of a compressed BMP, which Pillow decodes in Python
SMALL_BYTES = 8 * 2**10  # up to this size nothing can take long, and a picture is taken with all that is in it
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
