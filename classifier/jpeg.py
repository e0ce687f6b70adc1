"""The structure of a JPEG file: drops what its pixels do not depend on, and counts the work of decoding it."""

import io
import re
import struct
from dataclasses import dataclass, field
from typing import Any

from PIL.JpegImagePlugin import JpegImageFile

from classifier.sanitize import EXIF, TooManyParts

MAX_SEGMENTS = 500  # each has up to 64 KiB; a phone writes about 40
MAX_TABLE_BYTES = 2**18  # 256 KiB, of the kept segments; encoders write about 1 KiB
BLOCK_SIDE = 8  # pixels
COEFFICIENT_BYTES = 2 * BLOCK_SIDE**2  # of a block, which libjpeg keeps for all blocks if there are several scans

MARKER = re.compile(rb"\xff[\x01-\xfe]", re.DOTALL)
MARKER_BEHIND_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)  # 0: a byte 255 of data; D0 to D7: restarts
END_OF_IMAGE, START_OF_SCAN, EXIF_SEGMENT = 0xD9, 0xDA, 0xE1
END = bytes((0xFF, END_OF_IMAGE))
STANDALONE = {0x01, *range(0xD0, 0xDA)}  # markers without a segment
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
READ_FRAMES = {0xC0, 0xC1, 0xC2, 0xC9, 0xCA}  # sequential and progressive, with Huffman or arithmetic coding
PROGRESSIVE = {0xC2, 0xCA}
# The segments that libjpeg needs: frame, tables, restart interval, and JFIF and Adobe, which give the colour space.
KEPT = {*range(0xC0, 0xD0), 0xDB, 0xDC, 0xDD, 0xDE, 0xDF, 0xE0, 0xEE}
# Appended to a picture without an end marker. It has no byte 255, and no pattern that decodes to unchanged blocks.
JUNK = bytes.fromhex("8d3a71e5c4962f5bb81c64d7a93e0f72e15dc8369b47fa20")


class UnreadableJpeg(Exception):
    """A kind of JPEG that libjpeg does not decode. The message is one sentence for clients."""


@dataclass
class Jpeg:
    """A JPEG file as far as its pixels depend on it."""

    content: bytes = b""
    exif: bytes = b""
    complete: bool = True  # it has an end marker
    progressive: bool = False
    blocks: dict[int, int] = field(default_factory=dict)  # of each component, by its id
    scanned_blocks: int = 0  # blocks of all scans
    scans: int = 0

    @property
    def kept_blocks(self) -> int:
        """The blocks whose coefficients libjpeg keeps until the last scan."""
        return sum(self.blocks.values()) if self.scans > 1 or self.progressive else 0

    @property
    def coefficient_bytes(self) -> int:
        """The memory for these coefficients."""
        return COEFFICIENT_BYTES * self.kept_blocks

    @property
    def work(self) -> int:
        """The blocks that libjpeg goes through. The last pass over kept blocks takes three times as long as a scan."""
        return (self.scanned_blocks + 3 * self.kept_blocks) * (1 if self.complete else 2)

    def read_frame(self, code: int, segment: bytes) -> None:
        """Reads a start of frame. Raises UnreadableJpeg, struct.error."""
        precision, height, width, count = struct.unpack_from(">BHHB", segment, 4)
        if code not in READ_FRAMES:
            raise UnreadableJpeg("The JPEG picture is lossless or hierarchical, which is not read; send it as PNG.")
        if precision != 8:
            raise UnreadableJpeg(
                f"The JPEG picture has {precision} bits for each sample; only 8 are read. Send it with 8, or as PNG."
            )
        if count not in (1, 3, 4):
            raise UnreadableJpeg(f"The JPEG picture has {count} components; only 1, 3 and 4 are read. Send it as PNG.")
        self.progressive = code in PROGRESSIVE
        factors = {segment[at]: divmod(segment[at + 1], 16) for at in range(10, 10 + 3 * count, 3)}
        across, down = (BLOCK_SIDE * max(1, *(factor[i] for factor in factors.values()), 1) for i in (0, 1))
        units = -(-width // across) * -(-height // down)
        self.blocks = {number: units * wide * high for number, (wide, high) in factors.items()}

    def read_scan(self, segment: bytes) -> None:
        """Counts a start of scan."""
        self.scans += 1
        self.scanned_blocks += sum(self.blocks.get(number, 0) for number in segment[5 : 5 + 2 * segment[4] : 2])


def trim_jpeg(content: bytes) -> Jpeg:
    """The JPEG with only the segments that it needs, up to its end marker; phones append a video.

    Without an end marker it gets one. Raises TooManyParts, UnreadableJpeg, and ValueError, LookupError or struct.error
    if there are no pixels.
    """
    jpeg, kept, table_bytes, at, in_scan = Jpeg(), [content[:2]], 0, 2, False
    for _ in range(MAX_SEGMENTS):
        marker = (MARKER_BEHIND_SCAN if in_scan else MARKER).search(content, at)
        start = marker.start() if marker else len(content)
        if in_scan:
            kept.append(content[at:start].rstrip(b"\xff"))
        if marker is None or (jpeg.scans and content[start + 1] == END_OF_IMAGE):
            if not jpeg.scans:
                raise ValueError("no start of scan")
            jpeg.content, jpeg.complete = b"".join((*kept, END)), marker is not None
            return jpeg
        code = content[start + 1]
        at = start + 2 + (0 if code in STANDALONE else int.from_bytes(content[start + 2 : start + 4]))
        segment, in_scan = content[start:at], code == START_OF_SCAN
        if in_scan:
            jpeg.read_scan(segment)
        elif code in FRAMES and not jpeg.blocks:
            jpeg.read_frame(code, segment)
        elif code == EXIF_SEGMENT and not jpeg.exif and segment.startswith(EXIF, 4):
            jpeg.exif = segment[4:]
        if in_scan or code in KEPT:
            kept.append(segment)
            table_bytes += len(segment)
        if table_bytes > MAX_TABLE_BYTES:
            raise TooManyParts(f"The JPEG picture has over {MAX_TABLE_BYTES:,} bytes of tables, the limit.")
    raise TooManyParts(f"The JPEG picture has over {MAX_SEGMENTS:,} segments, the limit.")


class UnendedJpegImageFile(JpegImageFile):
    """A JPEG whose file had no end marker. It is complete if its pixels do not depend on what might follow.

    Browsers show such pictures. Pillow does not say whether libjpeg filled missing pixels, so they are decoded twice.
    """

    def load(self) -> Any:
        """Decodes the pixels. Raises OSError if some are missing."""
        if not self.tile:
            return super().load()
        assert isinstance(self.fp, io.BytesIO)
        longer = JpegImageFile(io.BytesIO(self.fp.getvalue().removesuffix(END) + JUNK + END))
        longer._mode, longer._size = self._mode, self._size
        longer.tile, longer.decoderconfig = list(self.tile), self.decoderconfig
        access = super().load()
        if longer.tobytes() != self.tobytes():
            raise OSError("truncated")
        return access
