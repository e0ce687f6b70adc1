"""Boxes of an ISO base media file (ISO/IEC 14496-12)."""

from collections.abc import Iterator

MAX_BOXES = 5_000  # in a box; a picture of 400 tiles has 400


def boxes(content: bytes, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Type, start and end of the content of each box. Raises ValueError if there are too many."""
    for _ in range(MAX_BOXES):
        if at + 8 > end:
            return
        size, kind, start = number(content, at, 4), content[at + 4 : at + 8], at + 8
        if size == 1:
            size, start = number(content, start, 8), start + 8
        stop = min(end, at + size) if size else end
        if stop < start:
            raise ValueError("a box ends before it starts")
        yield kind, start, stop
        at = stop
    raise ValueError("too many boxes")


def number(content: bytes | bytearray, at: int, size: int) -> int:
    """A big-endian number. Raises ValueError if it is cut off."""
    if at + size > len(content):
        raise ValueError("cut off")
    return int.from_bytes(content[at : at + size])
