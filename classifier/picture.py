"""Opens an uploaded picture within limits: bytes -> PIL picture, its header read, its pixels not yet decoded.

The file's signature tells the format. The number of pixels and the cost of decoding are checked before decoding,
against decompression bombs.
"""

import io
import struct

from PIL import AvifImagePlugin, Image
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from classifier import limits
from classifier.avif import is_avif, trim_avif
from classifier.bmp import ALPHABITFIELDS, BITFIELDS, RLE4, RLE8, MaskedBmpImageFile, UnreadableBmp, check_bmp
from classifier.decoders import DeepPngImageFile, LazyWebPImageFile, webp_size
from classifier.file_types import ACCEPTED as ACCEPTED
from classifier.file_types import refusal
from classifier.jpeg import UnendedJpegImageFile, UnreadableJpeg, trim_jpeg
from classifier.limits import MAX_SIDE, Cost
from classifier.sanitize import RGB, TooManyParts, trim_gif, trim_png

MAX_PIXELS = 16_000_000
MAX_JPEG_PIXELS = 52_000_000  # higher, since a JPEG can be decoded at 1/2, 1/4 or 1/8 of its sides
MAX_JPEG_SCANS = 24  # encoders write about ten; each scan is another pass over all pixels
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of the colour types of a PNG
SECONDS = "decode_seconds"  # in a picture's `info`: an estimate of the most that decoding and preprocessing take
MAX_RLE_PIXELS = 800_000  # of a BMP with run-length encoding, which Pillow decodes in Python
FRAME = "frame"  # in a GIF's `info`: the box of the first frame, if it is smaller than the picture

SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"RIFF", "WEBP"),  # then the length and "WEBP"
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
)
UNREADABLE = (  # exceptions that Pillow raises on a damaged picture
    ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, MemoryError, OSError, RuntimeError,
    SyntaxError, TypeError, ValueError, struct.error,
)  # fmt: skip
AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # else a picture takes all cores


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
    format = format_of(content)
    if format is None:
        raise UnsupportedPicture(refusal(content))
    limit = max_jpeg_pixels if format == "JPEG" else max_pixels
    try:
        picture = OPENERS[format](content, limit)
        check_size(picture.size, limit)  # again, should Pillow read another size than this module
        return picture
    except (UnreadableBmp, UnreadableJpeg) as error:
        raise BrokenPicture(str(error)) from error
    except UNREADABLE as error:
        raise BrokenPicture(f"The file begins like {a(format)} picture, but its header is damaged.") from error
    except Image.DecompressionBombError as error:  # a GIF frame larger than its canvas
        raise PictureTooLarge(f"The picture is over the limit of {max_pixels:,} pixels.") from error
    except TooManyParts as error:
        raise PictureTooLarge(str(error)) from error


def format_of(content: bytes) -> str | None:
    """The accepted format that the first bytes name."""
    for signature, format in SIGNATURES:
        if content.startswith(signature):
            return format if format != "WEBP" or content[8:12] == b"WEBP" else None
    return "AVIF" if is_avif(content) else None


def open_png(content: bytes, limit: int) -> ImageFile:
    trimmed, exif = trim_png(content)
    width, height, depth, colour = struct.unpack_from(">IIBB", trimmed, 16)
    if not trimmed.startswith(b"IHDR", 12):
        raise ValueError("no header")
    deep = (depth, colour) == (16, RGB) and b"tRNS" in trimmed[: trimmed.find(b"IDAT")]
    cost = limits.PNG_DEEP_TRANSPARENT if deep else limits.png(depth * CHANNELS[colour])
    check_size((width, height), limit, "PNG", cost, len(content))
    picture = (DeepPngImageFile if deep else PngImageFile)(io.BytesIO(trimmed))  # Image.open has a limit of its own
    if picture.size != (width, height):
        raise ValueError("another size")
    picture.info[SECONDS] = width * height * cost.seconds
    if exif:
        picture.info["exif"] = exif
    return picture


def open_jpeg(content: bytes, limit: int) -> ImageFile:
    jpeg = trim_jpeg(content)
    if jpeg.scans > MAX_JPEG_SCANS:
        raise PictureTooLarge(f"The JPEG picture has {jpeg.scans:,} scans, over the limit of {MAX_JPEG_SCANS}.")
    picture = (JpegImageFile if jpeg.complete else UnendedJpegImageFile)(io.BytesIO(jpeg.content))
    check_size(picture.size, limit)
    if jpeg.work > (most := limits.jpeg_blocks(len(content))):
        raise PictureTooLarge(
            f"The JPEG picture has {jpeg.work:,} blocks in its {jpeg.scans} scans, over the limit of {most:,}"
            f"{for_file(len(content), 'JPEG')}; send it smaller or not progressive."
        )
    if jpeg.coefficient_bytes > (memory := limits.memory(len(content))):
        raise PictureTooLarge(
            f"The JPEG picture has several scans and needs {jpeg.coefficient_bytes:,} bytes of memory, over the limit "
            f"of {memory:,}{for_file(len(content), 'JPEG')}; send it smaller or not progressive."
        )
    pixels = min(picture.width * picture.height, limits.JPEG_DRAFT_PIXELS)
    picture.info[SECONDS] = jpeg.work * limits.JPEG_BLOCK_SECONDS + pixels * limits.JPEG_PIXEL_SECONDS
    picture.info.pop("exif", None)
    if jpeg.exif:
        picture.info["exif"] = jpeg.exif
    return picture


def open_webp(content: bytes, limit: int) -> ImageFile:
    size = webp_size(content)
    check_size(size, limit, "WebP", limits.WEBP, len(content))
    picture = LazyWebPImageFile(io.BytesIO(content))
    picture.info[SECONDS] = size[0] * size[1] * limits.WEBP.seconds
    return picture


def open_avif(content: bytes, limit: int) -> ImageFile:
    avif = trim_avif(content)
    cost = limits.AVIF_DEEP if avif.deep else limits.AVIF
    picture = AvifImageFile(io.BytesIO(avif.content))  # parses the boxes, decodes nothing
    check_size(picture.size, limit, "AVIF", cost, len(content))
    pixels = max(
        avif.coded_pixels // 2, picture.width * picture.height
    )  # with an alpha channel twice as many are coded
    if pixels > (most := cost.limit(len(content))):
        raise PictureTooLarge(
            f"The AVIF picture has {2 * pixels:,} pixels in its tiles, layers and alpha channel, over the limit of "
            f"{2 * most:,}{for_file(len(content), 'AVIF')}."
        )
    picture.info[SECONDS] = pixels * cost.seconds
    return picture


def open_gif(content: bytes, limit: int) -> ImageFile:
    picture = GifImageFile(io.BytesIO(trim_gif(content)))
    check_size(picture.size, limit, "GIF", limits.GIF, len(content))
    picture.info[SECONDS] = picture.width * picture.height * limits.GIF.seconds
    if picture.tile[0].extents != (0, 0, *picture.size):
        picture.info[FRAME] = picture.tile[0].extents
    return picture


def open_bmp(content: bytes, limit: int) -> ImageFile:
    width, height, _, compression = check_bmp(content)
    run_length = compression in (RLE8, RLE4)
    masked = compression in (BITFIELDS, ALPHABITFIELDS)
    cost = limits.BMP_RLE if run_length else limits.BMP_MASKED if masked else limits.BMP
    check_size((width, abs(height)), min(limit, MAX_RLE_PIXELS) if run_length else limit, "BMP", cost, len(content))
    picture = (MaskedBmpImageFile if masked else BmpImageFile)(io.BytesIO(content))
    picture.info[SECONDS] = picture.width * picture.height * cost.seconds
    if run_length:  # two bytes for each pixel and each row end are enough; more would only keep Pillow's decoder busy
        assert picture.fp is not None
        picture.fp.truncate(picture.tile[0].offset + 2 * (picture.width + 2) * picture.height)
    return picture


OPENERS = {
    "PNG": open_png, "JPEG": open_jpeg, "WEBP": open_webp, "AVIF": open_avif, "GIF": open_gif, "BMP": open_bmp,
}  # fmt: skip


def decode_seconds(picture: ImageFile) -> float:
    """An estimate of the most that decoding and preprocessing a picture from `open_picture` take of a core."""
    return float(picture.info[SECONDS])


def check_size(
    size: tuple[int, int], limit: int, format: str = "", cost: Cost | None = None, file_bytes: int = 0
) -> None:
    """Raises PictureTooLarge if width × height is over `limit` pixels, or over what `cost` allows for this file."""
    width, height = size
    if width * height > limit:
        raise PictureTooLarge(f"{pixels_over(size)} {limit:,}.")
    if max(size) > MAX_SIDE:
        raise PictureTooLarge(f"The picture is {width}×{height} pixels, over the limit of {MAX_SIDE:,} for each side.")
    if cost and width * height > (most := cost.limit(file_bytes)):
        raise PictureTooLarge(f"{pixels_over(size)} {most:,}{for_file(file_bytes, format)}.")


def pixels_over(size: tuple[int, int]) -> str:
    width, height = size
    return f"The picture is {width}×{height} = {width * height:,} pixels, over the limit of"


def for_file(file_bytes: int, format: str) -> str:
    small = f" of under {limits.SMALL_FILE_BYTES:,} bytes" if file_bytes < limits.SMALL_FILE_BYTES else ""
    return f" for {a(format)} file{small}"


def a(format: str) -> str:
    return f"an {format}" if format == "AVIF" else f"a {format}"
