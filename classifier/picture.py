"""Opens an uploaded picture within limits: bytes -> PIL picture, its header read, its pixels not yet decoded.

The file's signature tells the format. The number of pixels is checked before decoding, against decompression bombs.
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
MAX_JPEG_PIXELS = 50_000_000  # higher, since a JPEG can be decoded at 1/2, 1/4 or 1/8 of its sides
MAX_JPEG_SCANS = 24  # encoders write about ten; each scan is another pass over all pixels
MAX_RLE_PIXELS = 1_000_000  # of a BMP with run-length encoding, which Pillow decodes in Python
SMALL_BYTES = 8 * 2**10  # 8 KiB; a file up to this size decodes fast with any content, so it is not sanitized
START_OF_SCAN = b"\xff\xda"  # does not occur in compressed JPEG data, where 255 is followed by 0 or a restart marker

SIGNATURES: tuple[tuple[bytes, type[ImageFile]], ...] = (
    (b"\x89PNG\r\n\x1a\n", PngImageFile),
    (b"\xff\xd8\xff", JpegImageFile),
    (b"RIFF", WebPImageFile),  # then the length and "WEBP"
    (b"GIF87a", GifImageFile),
    (b"GIF89a", GifImageFile),
    (b"BM", BmpImageFile),
)
TRIMS = {PngImageFile: trim_png, JpegImageFile: trim_jpeg, GifImageFile: trim_gif}
RLE = (BmpImageFile.COMPRESSIONS["RLE8"], BmpImageFile.COMPRESSIONS["RLE4"])
ACCEPTED = "PNG, JPEG, WebP, GIF, BMP"
UNREADABLE = (  # exceptions that Pillow raises on a damaged picture
    ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, MemoryError, OSError, RuntimeError,
    SyntaxError, TypeError, ValueError, struct.error,
)  # fmt: skip


class PictureError(Exception):
    """A picture is refused. The message is one sentence for clients; it names the limit and the value.

    PictureError
      x BrokenPicture        an empty file, or one with an accepted signature that does not decode
      x PictureTooLarge      over the limit of pixels, or of chunks, segments, blocks or scans
      x UnsupportedPicture   no accepted signature
    """


class BrokenPicture(PictureError):
    pass


class PictureTooLarge(PictureError):
    pass


class UnsupportedPicture(PictureError):
    pass


def open_picture(content: bytes, max_pixels: int = MAX_PIXELS, max_jpeg_pixels: int = MAX_JPEG_PIXELS) -> ImageFile:
    """The picture in the bytes of a file, within the limits, its pixels not decoded yet. Raises PictureError."""
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
        if decoder is WebPImageFile:  # libwebp allocates the whole canvas when it opens the file
            check_size(webp_size(content), limit)
        picture = decoder(io.BytesIO(content))  # not Image.open, which has a pixel limit of its own
    except UNREADABLE as error:
        raise BrokenPicture(f"The file begins like a {decoder.format} picture, but its header is damaged.") from error
    except Image.DecompressionBombError as error:  # a GIF frame larger than its canvas
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
    """Limits the pixels of a BMP with run-length encoding, and its bytes to two for each pixel and each row end.

    An encoder needs no more; longer data would only keep Pillow's decoder busy. Raises PictureTooLarge.
    """
    check_size(picture.size, MAX_RLE_PIXELS)
    assert picture.fp is not None
    picture.fp.truncate(picture.tile[0].offset + 2 * (picture.width + 2) * picture.height)


def check_size(size: tuple[int, int], limit: int) -> None:
    """Raises PictureTooLarge if width × height is over `limit` pixels."""
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
