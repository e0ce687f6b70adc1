"""Removes from an encoded picture what its pixels do not depend on: texts, colour profile, comments, more frames.

Pillow reads such parts one by one, in Python: a hostile file of 10 MiB takes it up to half a minute. Here they are
skipped, and a file with too many parts is refused.
"""

import re
import struct

MAX_CHUNKS = 50_000  # of a PNG; encoders write chunks of 8 KiB
MAX_SEGMENTS = 1_000  # of a JPEG, before its pixels; each has up to 64 KiB
MAX_TABLE_BYTES = 2**18  # 256 KiB, of the segments that are kept; encoders write about 1 KiB
MAX_BLOCKS = 100_000  # of a GIF, before its first frame; each has up to 255 bytes

PNG_SIGNATURE_BYTES = 8
PNG_KEPT = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}

MARKER = re.compile(rb"\xff[\x01-\xfe]", re.DOTALL)
START_OF_SCAN, END_OF_IMAGE, EXIF_SEGMENT = 0xDA, b"\xff\xd9", 0xE1
STANDALONE = range(0xD0, 0xDA)  # markers without a segment
# The segments that libjpeg needs: frame, tables, restart interval, and JFIF and Adobe, which give the colour space.
JPEG_KEPT = {*range(0xC0, 0xD0), 0xDB, 0xDC, 0xDD, 0xDE, 0xDF, 0xE0, 0xEE}
EXIF = b"Exif\0\0"

GIF_PART = re.compile(rb"[!,;]")
GIF_HEADER_BYTES = 13
GRAPHIC_CONTROL = 0xF9


class TooManyParts(Exception):
    """A picture has more parts than the limit. The message is one sentence for clients."""


def trim_png(content: bytes) -> tuple[bytes, bytes]:
    """The PNG with only the chunks of its first frame, and its EXIF data. Raises TooManyParts."""
    kept, exif = [content[:PNG_SIGNATURE_BYTES]], b""
    at = PNG_SIGNATURE_BYTES
    for _ in range(MAX_CHUNKS):
        if at + 8 > len(content):
            return b"".join(kept), exif
        length, kind = struct.unpack_from(">I4s", content, at)
        end = at + 12 + length  # length, kind and checksum have 4 bytes each
        if kind in PNG_KEPT:
            kept.append(content[at:end])
        elif kind == b"eXIf":
            exif = content[at + 8 : end - 4]
        at = end if kind != b"IEND" else len(content)
    raise TooManyParts(f"The PNG picture has over {MAX_CHUNKS:,} chunks, the limit.")


def trim_jpeg(content: bytes) -> tuple[bytes, bytes]:
    """The JPEG with only the segments that it needs, and its EXIF data.

    It ends at its end marker; phones append a video. Raises TooManyParts, and ValueError if there are no pixels.
    """
    kept, exif = [content[:2]], b""
    at = 2
    for _ in range(MAX_SEGMENTS):
        marker = MARKER.search(content, at)
        if marker is None:
            raise ValueError("no start of scan")
        at, code = marker.start(), content[marker.start() + 1]
        if code == START_OF_SCAN:
            if (size := sum(map(len, kept))) > MAX_TABLE_BYTES:
                raise TooManyParts(
                    f"The JPEG picture has {size:,} bytes before its pixels, over the limit of {MAX_TABLE_BYTES:,}."
                )
            end = content.find(END_OF_IMAGE, at)
            kept.append(content[at : end + len(END_OF_IMAGE) if end > 0 else None])
            return b"".join(kept), exif
        end = at + 2
        if code not in STANDALONE:
            end += int.from_bytes(content[at + 2 : at + 4])
        if code in JPEG_KEPT:
            kept.append(content[at:end])
        elif code == EXIF_SEGMENT and not exif and content.startswith(EXIF, at + 4):
            exif = content[at + 4 : end]
        at = end
    raise TooManyParts(f"The JPEG picture has over {MAX_SEGMENTS:,} segments before its pixels, the limit.")


def trim_gif(content: bytes) -> tuple[bytes, bytes]:
    """The GIF without the extensions before its first frame, except the one for transparency; and no EXIF data.

    Raises TooManyParts, and LookupError if there is no frame.
    """
    flags = content[10]
    at = header = GIF_HEADER_BYTES + (3 << (flags & 7) + 1 if flags & 128 else 0)
    control = b""
    blocks = 0
    while blocks < MAX_BLOCKS:
        part = GIF_PART.search(content, at)
        if part is None or part[0] == b";":
            raise LookupError("no frame")
        at = part.start()
        if part[0] == b",":
            return content[:header] + control + content[at:], b""
        end = at + 2
        while (size := content[end]) and blocks < MAX_BLOCKS:
            end += 1 + size
            blocks += 1
        end += 1
        blocks += 1
        if content[at + 1] == GRAPHIC_CONTROL:
            control = content[at:end]
        at = end
    raise TooManyParts(f"The GIF picture has over {MAX_BLOCKS:,} blocks before its first frame, the limit.")


def orientation(exif: bytes) -> int:
    """The orientation in EXIF data: 1 to 8 if the data are valid, 1 if they have none. Nothing else is read.

    Raises struct.error if the data end early.
    """
    data = exif.removeprefix(EXIF)
    order = "<" if data.startswith(b"II") else ">"
    (directory,) = struct.unpack_from(f"{order}I", data, 4)
    (entries,) = struct.unpack_from(f"{order}H", data, directory)
    for at in range(directory + 2, directory + 2 + 12 * entries, 12):
        tag, value = struct.unpack_from(f"{order}H6xH", data, at)
        if tag == 0x112:
            return int(value)
    return 1
