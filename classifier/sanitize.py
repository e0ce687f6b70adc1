"""Removes from an encoded picture what its pixels do not depend on: texts, colour profile, comments, more frames.

Pillow reads such parts one by one, in Python: a hostile file of 10 MiB takes it up to half a minute. Here they are
skipped, and a file with too many parts is refused.
"""

import re
import struct
import zlib

MAX_CHUNKS = 50_000  # of a PNG; encoders write chunks of 8 KiB
MAX_BLOCKS = 100_000  # of a GIF, before its first frame; each has up to 255 bytes

PNG_SIGNATURE_BYTES = 8
CHUNK = struct.Struct(">I4s")  # length and kind
PNG_KEPT = {b"IHDR", b"PLTE"}
GREY, RGB, PALETTE = 0, 2, 3  # colour types of a PNG
MAX_PALETTE = 256  # colours

EXIF = b"Exif\0\0"

GIF_PART = re.compile(rb"[!,;]")
GIF_HEADER_BYTES = 13
GRAPHIC_CONTROL = 0xF9


class TooManyParts(Exception):
    """A picture has more parts than the limit. The message is one sentence for clients."""


def trim_png(content: bytes) -> tuple[bytes, bytes]:
    """The PNG with only the chunks of its first frame, its pixels in one, and its EXIF data. Raises TooManyParts.

    Pillow reads chunks in Python: a batch of 64 PNG of 8 KiB with empty ones took 0.1 s of the event loop.
    An ancillary chunk with a wrong checksum is left out, as the PNG specification recommends (section 13.2).
    """
    plain = content.startswith(b"\0\0\0\rIHDR", PNG_SIGNATURE_BYTES) and content.startswith(b"IDAT", 37)
    if plain and len(content) == 57 + int.from_bytes(content[33:37]):
        return content, b""  # a header, pixels and an end and nothing else; without this a 28×28 PNG takes 15 % longer
    kept, exif = [content[:PNG_SIGNATURE_BYTES]], b""
    pixels: list[bytes] = []
    at = PNG_SIGNATURE_BYTES
    for _ in range(MAX_CHUNKS):
        if at + 8 > len(content):
            if pixels:
                pixels[:0] = (CHUNK.pack(sum(map(len, pixels)), b"IDAT"),)
                kept += (*pixels, bytes(4))  # Pillow skips the checksum of pixels
            return b"".join(kept), exif
        length, kind = CHUNK.unpack_from(content, at)
        end = at + 12 + length  # length, kind and checksum have 4 bytes each
        if kind == b"IDAT":
            pixels.append(content[at + 8 : end - 4])
        elif kind == b"IHDR" and at != PNG_SIGNATURE_BYTES:
            raise ValueError("a second header")  # Pillow takes the last one, and the limits are those of the first
        elif kind in PNG_KEPT:
            kept.append(content[at:end])
        elif kind in (b"eXIf", b"tRNS"):
            data = content[at + 8 : end - 4]
            if zlib.crc32(kind + data).to_bytes(4) != content[end - 4 : end]:
                pass
            elif kind == b"eXIf":
                exif = data
            elif not pixels:
                kept.append(png_transparency(content, data))
        at = end if kind != b"IEND" else len(content)
    raise TooManyParts(f"The PNG picture has over {MAX_CHUNKS:,} chunks, the limit.")


def png_transparency(content: bytes, levels: bytes) -> bytes:
    """The chunk tRNS for Pillow, empty if it is not valid.

    Pillow stretches grey levels of 2 and 4 bits to 8, but not the transparent one, and takes bits that do not count.
    """
    depth, colour = content[24:26]
    if colour == PALETTE:
        return png_chunk(b"tRNS", levels) if 0 < len(levels) <= MAX_PALETTE else b""
    if len(levels) != {GREY: 2, RGB: 6}.get(colour):
        return b""
    most = (1 << depth) - 1
    stretch = 255 // most if depth in (2, 4) else 1
    values = [(value & most) * stretch for (value,) in struct.iter_unpack(">H", levels)]
    return png_chunk(b"tRNS", struct.pack(f">{len(values)}H", *values))


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def trim_gif(content: bytes) -> bytes:
    """The GIF without the extensions before its first frame, except the one for transparency.

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
            return content[:header] + control + content[at:]
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
