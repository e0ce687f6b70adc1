"""BMP files with bit masks (BI_BITFIELDS): any masks are read; Pillow reads ten layouts of them.

Names of fields and values are those of Microsoft's BITMAPV4HEADER. Run-length encoded files are left to Pillow.
"""

import io
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile

FILE_HEADER_BYTES = 14
OLD_HEADER_BYTES = 12  # BITMAPCOREHEADER, with sizes of 16 bits
INFO_HEADER_BYTES = 40  # up to here all later headers are alike
RGB, RLE8, RLE4, BITFIELDS, JPEG, PNG, ALPHABITFIELDS = range(7)  # biCompression
READ_BITS = {RGB: {1, 4, 8, 16, 24, 32}, RLE8: {8}, RLE4: {4}, BITFIELDS: {16, 24, 32}, ALPHABITFIELDS: {16, 24, 32}}
MAX_PALETTE = 256  # colours
READ_HEADERS = {OLD_HEADER_BYTES, INFO_HEADER_BYTES, 52, 56, 64, 108, 124}


class UnreadableBmp(Exception):
    """A kind of BMP that is not read. The message is one sentence for clients."""


def check_bmp(content: bytes) -> tuple[int, int, int, int]:
    """Width, height (negative: the first row is the upper one), bits for each pixel, and compression.

    The width is unsigned, as Pillow reads it. Raises UnreadableBmp, and struct.error if the file ends in its header.
    """
    (header,) = struct.unpack_from("<I", content, FILE_HEADER_BYTES)
    if header == OLD_HEADER_BYTES:
        width, height, _, bits = struct.unpack_from("<4H", content, FILE_HEADER_BYTES + 4)
        compression = RGB
    elif header in READ_HEADERS:
        width, height, _, bits, compression = struct.unpack_from("<IiHHI", content, FILE_HEADER_BYTES + 4)
    else:
        raise UnreadableBmp(f"The BMP picture has a header of {header:,} bytes, which is not read; send it as PNG.")
    colours = struct.unpack_from("<I", content, FILE_HEADER_BYTES + 32)[0] if header >= INFO_HEADER_BYTES else 0
    if bits <= 8 and colours > MAX_PALETTE:
        raise UnreadableBmp(f"The BMP picture has a palette of {colours:,} colours; up to {MAX_PALETTE} are read.")
    if bits not in READ_BITS.get(compression, ()):
        raise UnreadableBmp(
            f"The BMP picture has {bits} bits for each pixel and compression {compression}, which is not read; "
            "send it as PNG."
        )
    return width, height, bits, compression


def without_masks(content: bytes) -> bytes:
    """A BMP with bit masks as one with 8 bits for each of blue, green, red and alpha.

    An alpha channel that is 0 everywhere is left out: such pictures, from the clipboard for example, are opaque.
    Raises struct.error, ValueError.
    """
    width, height, bits, compression = check_bmp(content)
    header, (start,) = *struct.unpack_from("<I", content, FILE_HEADER_BYTES), struct.unpack_from("<I", content, 10)
    masks = list(struct.unpack_from("<4I", content.ljust(70, b"\0"), FILE_HEADER_BYTES + INFO_HEADER_BYTES))
    if header < 56 and compression == BITFIELDS:  # such a header has three masks, and pixels may follow
        masks[3] = 0
    if not any(masks[:3]):
        masks[:3] = 0xFF0000, 0xFF00, 0xFF  # as Pillow reads it
    size, stride = bits // 8, (width * bits + 31) // 32 * 4
    rows = np.frombuffer(content, np.uint8, abs(height) * stride, start).reshape(-1, stride)[:, : width * size]
    values = np.zeros((abs(height), width), np.uint32)
    for byte in range(size):
        values |= rows[:, byte::size].astype(np.uint32) << np.uint32(8 * byte)
    red, green, blue, alpha = (channel(values, mask) for mask in masks)
    if not alpha.any():
        alpha[:] = 255
    info = struct.pack("<IiiHHI5I", 108, width, height, 1, 32, BITFIELDS, 0, 0, 0, 0, 0)
    info = (info + struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)).ljust(108, b"\0")
    pixels = np.stack((blue, green, red, alpha), axis=-1)
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, FILE_HEADER_BYTES + len(info)) + info + pixels.tobytes()


class MaskedBmpImageFile(BmpImageFile):
    """A BMP with bit masks, which are applied when its pixels are needed."""

    def _open(self) -> None:
        assert isinstance(self.fp, io.BytesIO)
        width, height, _, _ = check_bmp(self.fp.getvalue())
        self._size, self._mode = (width, abs(height)), "RGBA"

    def load(self) -> Any:
        if self._im is None:
            assert isinstance(self.fp, io.BytesIO)
            plain = BmpImageFile(io.BytesIO(without_masks(self.fp.getvalue())))
            plain.load()
            self.im, self._mode = plain.im, plain.mode
        return Image.Image.load(self)


def channel(values: NDArray[np.uint32], mask: int) -> NDArray[np.uint8]:
    """The bits of a mask as uint8, of the same shape, 255 for all bits set; 0 for an empty mask."""
    if not mask:
        return np.zeros(values.shape, np.uint8)
    shift = (mask & -mask).bit_length() - 1
    levels = ((values & np.uint32(mask)) >> np.uint32(shift)).astype(np.float32)
    scaled: NDArray[np.uint8] = np.rint(levels * (255 / (mask >> shift))).astype(np.uint8)
    return scaled
