"""Changed decoders of Pillow: for PNG with a transparent colour of 16 bits, and for WebP, which is opened late."""

import io
from functools import reduce
from typing import Any

from PIL import ImageChops
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile


class DeepPngImageFile(PngImageFile):
    """A PNG with 16 bits for each of red, green and blue, and a transparent colour, which is compared at full depth."""

    def load(self) -> Any:
        """Decodes the pixels: the upper bytes as Pillow does, with an alpha channel."""
        if not self.tile:
            return super().load()
        assert isinstance(self.fp, io.BytesIO)
        lower = PngImageFile(io.BytesIO(self.fp.getvalue()))
        lower.tile = [tile._replace(args="RGB;16L") for tile in lower.tile]  # big-endian: the other byte of each
        super().load()
        colour = self.info.pop("transparency")
        bands = (*self.split(), *lower.split())
        levels = (*(level >> 8 for level in colour), *(level & 255 for level in colour))
        tables = [[255 * (value == level) for value in range(256)] for level in levels]
        equal = [band.point(table) for band, table in zip(bands, tables, strict=True)]
        self.putalpha(ImageChops.invert(reduce(ImageChops.darker, equal)))
        return super().load()


class LazyWebPImageFile(WebPImageFile):
    """A WebP that libwebp opens only when pixels are needed, since it allocates two canvases to open a file."""

    def _open(self) -> None:
        assert isinstance(self.fp, io.BytesIO)
        self._size, self._mode = webp_size(self.fp.getvalue()), "RGBA"
        self._decoder = None

    def load(self) -> Any:
        if self._decoder is None:
            super()._open()
        return super().load()


def webp_size(content: bytes) -> tuple[int, int]:
    """Width and height from the first chunk of a WebP file (RFC 9649, sections 2.5 to 2.7)."""
    kind, bits = content[12:16], int.from_bytes(content[20:30].ljust(10, b"\0"), "little")
    if kind == b"VP8X":  # 32 bits of flags, then both sizes less one in 24 bits each
        return (bits >> 32 & 0xFFFFFF) + 1, (bits >> 56 & 0xFFFFFF) + 1
    if kind == b"VP8L":  # a signature byte, then both sizes less one in 14 bits each
        return (bits >> 8 & 0x3FFF) + 1, (bits >> 22 & 0x3FFF) + 1
    return bits >> 48 & 0x3FFF, bits >> 64 & 0x3FFF  # VP8: a frame tag and a start code, then 14 bits each
