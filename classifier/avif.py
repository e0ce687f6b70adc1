"""The boxes of an AVIF file (ISO/IEC 14496-12 and 23008-12): drops metadata, and counts the pixels that AV1 decodes.

The pixels are counted from AV1's own sequence headers: these may be larger than the size (`ispe`) that the file states,
and a picture may be made of many tiles.
"""

import struct
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from classifier.av1 import frame_pixels
from classifier.boxes import boxes, number

BRANDS = (b"avif", b"avis")
CONTAINERS = {b"meta": 4, b"iprp": 0, b"moov": 0, b"trak": 0, b"mdia": 0, b"minf": 0, b"stbl": 0}  # bytes before boxes
MAX_PARTS = 20_000  # boxes, extents, references and so on; a picture of 400 tiles has about 3,000
METADATA = (b"Exif", b"mime")  # types of items: EXIF, XMP
IN_FILE, IN_IDAT = 0, 1  # where an item stands


def is_avif(content: bytes) -> bool:
    """Whether the brands of an ISO base media file name AVIF."""
    if content[4:8] != b"ftyp":
        return False
    end = min(int.from_bytes(content[:4]), 512)
    return any(content[at : at + 4] in BRANDS for at in range(8, end - 3, 4) if at != 12)


class Avif:
    """What the boxes of a file say of its items and tracks. Raises ValueError."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.primary = 0
        self.types: dict[int, tuple[bytes, int]] = {}  # of each item: its type, and where that stands
        self.extents: dict[int, list[tuple[int, int, int]]] = {}  # of each item: IN_FILE or IN_IDAT, start, length
        self.offsets: list[tuple[int, int]] = []  # where offsets into the file stand, and in how many bytes
        self.references: list[tuple[bytes, int, int]] = []  # type, from item, to item
        self.properties: list[bytes] = []  # types
        self.associations: dict[int, tuple[int, list[int]]] = {}  # of each item: where they are counted; numbers from 1
        self.association_bytes = 1
        self.enclosing: list[int] = []  # the boxes meta and iprp
        self.ipma: list[int] = []  # the boxes that hold the associations
        self.deep = False
        self.dangling: list[tuple[int, int]] = []  # where references to no item stand, and in how many bytes
        self.idat = 0
        self._parts = self._item_bytes = 0
        self.samples: list[int] = []  # where the first frame of each track stands
        self.sample_bytes: list[int] = []  # its length
        self._readers: dict[bytes, Callable[[int, int], None]] = {
            b"pitm": self._read_pitm, b"iloc": self._read_iloc, b"iinf": self._read_iinf, b"iref": self._read_iref,
            b"ipco": self._read_ipco, b"ipma": self._read_ipma, b"stco": self._read_stco, b"co64": self._read_stco,
            b"stsz": self._read_stsz,
        }  # fmt: skip
        self._read(0, len(content))

    def _read(self, at: int, end: int) -> None:
        for kind, start, stop in boxes(self.content, at, end):
            self._count()
            if kind in (b"meta", b"iprp") and not self.associations:
                self.enclosing.append(start - 8)
            if kind == b"idat":
                self.idat = start
            elif kind in CONTAINERS:
                self._read(start + CONTAINERS[kind], stop)
            elif kind in self._readers:
                self._readers[kind](start, stop)

    def _count(self, parts: int = 1) -> None:
        self._parts += parts
        if self._parts > MAX_PARTS:
            raise ValueError("too many parts")

    def _number(self, at: int, size: int) -> int:
        return number(self.content, at, size)

    def _read_pitm(self, at: int, end: int) -> None:
        self.primary = self._number(at + 4, 4 if self.content[at] else 2)

    def _read_iinf(self, at: int, end: int) -> None:
        for _, start, _ in boxes(self.content, at + (8 if self.content[at] else 6), end):
            size = 4 if self._number(start, 1) > 2 else 2
            place = start + 4 + size + 2
            self.types[self._number(start + 4, size)] = self.content[place : place + 4], place

    def _read_iref(self, at: int, end: int) -> None:
        size = 4 if self.content[at] else 2
        for kind, start, stop in boxes(self.content, at + 4, end):
            count = min(self._number(start + size, 2), (stop - start) // size)
            self._count(1 + count)
            for to in range(count):
                target = self._number(start + size + 2 + size * to, size)
                self.references.append((kind, self._number(start, size), target or self.primary))
                if not target:
                    self.dangling.append((start + size + 2 + size * to, size))

    def _read_iloc(self, at: int, end: int) -> None:
        version, sizes = self.content[at], self._number(at + 4, 2)
        offset_bytes, length_bytes, base_bytes, index_bytes = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
        index_bytes = index_bytes if version else 0
        id_bytes = 4 if version > 1 else 2
        count, at = self._number(at + 6, id_bytes), at + 6 + id_bytes
        self._count(count)
        for _ in range(count):
            item, at = self._number(at, id_bytes), at + id_bytes
            method, at = (self._number(at, 2) & 15, at + 2) if version else (IN_FILE, at)
            base, extents = self._number(at + 2, base_bytes), self._number(at + 2 + base_bytes, 2)
            if base and method == IN_FILE:
                self.offsets.append((at + 2, base_bytes))
            at += 4 + base_bytes
            places = self.extents.setdefault(item, [])
            self._count(1 + extents)
            for _ in range(extents):
                at += index_bytes
                start, length = self._number(at, offset_bytes), self._number(at + offset_bytes, length_bytes)
                places.append((method, base + start, length))
                if method == IN_FILE and not base:
                    self.offsets.append((at, offset_bytes))
                at += offset_bytes + length_bytes

    def _read_ipco(self, at: int, end: int) -> None:
        for kind, start, _ in boxes(self.content, at, end):
            self._count()
            self.properties.append(kind)
            if kind == b"av1C":  # high bit depth, twelve bits, monochrome, subsampling in x and y
                self.deep |= self._number(start + 2, 1) & 0b1101100 != 0b1100

    def _read_ipma(self, at: int, end: int) -> None:
        self.ipma.append(at - 8)
        id_bytes = 4 if self.content[at] else 2
        self.association_bytes = 2 if self._number(at + 3, 1) & 1 else 1
        mask = 0x7FFF if self.association_bytes == 2 else 0x7F
        count, at = self._number(at + 4, 4), at + 8
        self._count(count)
        for _ in range(count):
            item, at = self._number(at, id_bytes), at + id_bytes
            places = range(at + 1, at + 1 + self.association_bytes * self._number(at, 1), self.association_bytes)
            self.associations[item] = at, [self._number(place, self.association_bytes) & mask for place in places]
            at = places.stop

    def _read_stco(self, at: int, end: int) -> None:
        size = 8 if self.content[at - 4 : at] == b"co64" else 4
        self.samples.append(self._number(at + 8, size))

    def _read_stsz(self, at: int, end: int) -> None:
        self.sample_bytes.append(self._number(at + 4, 4) or self._number(at + 12, 4))

    def has(self, item: int, kind: bytes) -> bool:
        """Whether the item has a property of this type."""
        return any(kind == self.properties[at - 1] for at in self.associations.get(item, (0, []))[1] if self._known(at))

    def _known(self, at: int) -> bool:
        return 0 < at <= len(self.properties)

    def data(self, item: int) -> bytes:
        """The bytes of an item. Raises ValueError if items have many times the bytes of the file."""
        starts = {IN_FILE: 0, IN_IDAT: self.idat}
        parts = []
        for method, start, length in self.extents.get(item, []):
            if method in starts:
                first = starts[method] + start
                parts.append(self.content[first : first + length if length else None])
                self._item_bytes += len(parts[-1])
                if self._item_bytes > 8 * len(self.content):
                    raise ValueError("too many bytes")
        return b"".join(parts)

    def coded_pixels(self) -> int:
        """The pixels that AV1 decodes for the primary item and its alpha channel, and for the first frame of tracks."""
        roots = [self.primary, *(start for kind, start, to in self.references if (kind, to) == (b"auxl", self.primary))]
        tiles = [to for kind, start, to in self.references if kind == b"dimg" and start in roots]
        coded = {item for item in (*roots, *tiles) if self.types.get(item, (b"", 0))[0] == b"av01"}
        sizes = {item: frame_pixels(self.data(item)) for item in coded}
        pixels = sum(sizes.get(item, 0) for item in (*roots, *tiles))
        for at, length in zip(self.samples, self.sample_bytes, strict=False):
            with suppress(ValueError):  # a track of sound
                pixels += frame_pixels(self.content[at : at + length])
        return pixels


class TrimmedAvif(NamedTuple):
    content: bytes
    coded_pixels: int  # that AV1 decodes
    deep: bool  # with more than 8 bits, or chroma at more than 1/4 of the pixels


def trim_avif(content: bytes) -> TrimmedAvif:
    """The AVIF without EXIF and XMP. Raises ValueError.

    EXIF data do not matter: the orientation is a property of the picture. Three faults of known encoders, which libavif
    refuses, are mended: several boxes of associations (cavif by Link-U), an alpha channel that refers to no item
    (GPAC), and one without a size (cavif in Rust until 2021).
    """
    avif = Avif(content)
    pixels = avif.coded_pixels()
    trimmed = bytearray(content)
    for kind, place in avif.types.values():
        if kind in METADATA:
            trimmed[place : place + 4] = b"skip"
    for place, size in avif.dangling:
        trimmed[place : place + size] = avif.primary.to_bytes(size)
    for count, at in enumerate(avif.ipma[:128]):
        trimmed[at + 11] |= count << 1  # unused flags: libavif refuses two of these boxes with the same flags
    add_sizes(avif, trimmed)
    return TrimmedAvif(bytes(trimmed), pixels, avif.deep)


def add_sizes(avif: Avif, content: bytearray) -> None:
    """Gives alpha channels without a size that of the picture, which makes the file a little longer."""
    sizes = [at for at in avif.associations.get(avif.primary, (0, []))[1] if avif.properties[at - 1 : at] == [b"ispe"]]
    places = [
        place
        for item, (place, _) in avif.associations.items()
        if avif.has(item, b"auxC") and not avif.has(item, b"ispe")
    ]
    if not sizes or not places or avif.samples or len(avif.ipma) > 1:
        return
    added = sizes[0].to_bytes(avif.association_bytes)
    grown = len(added) * len(places)
    for at in (*avif.enclosing, *avif.ipma):
        struct.pack_into(">I", content, at, number(content, at, 4) + grown)
    for at, size in avif.offsets:
        if (offset := number(content, at, size)) > avif.ipma[0]:
            content[at : at + size] = (offset + grown).to_bytes(size)
    for at in sorted(places, reverse=True):
        content[at] += 1
        content[at + 1 : at + 1] = added
