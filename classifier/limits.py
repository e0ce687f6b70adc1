"""What decoding a picture costs at most, and the limits of pixels that follow from it.

A small file must not cost much (decompression bombs): below SMALL_FILE_BYTES it may take SMALL_SECONDS of a core and
SMALL_MEMORY, any other MAX_SECONDS and MAX_MEMORY. The figures are of the costliest files found by hand and by
`benchmarks.soak.costly_pictures`, on one core of an AMD EPYC, with preprocessing.
"""

from dataclasses import dataclass
from functools import cache

SMALL_FILE_BYTES = 100_000
SMALL_SECONDS, MAX_SECONDS = 0.3, 1.0
SMALL_MEMORY, MAX_MEMORY = 100e6, 300e6  # bytes
MAX_SIDE = 65_535  # pixels, of both sides: the limit of JPEG and GIF


@dataclass(frozen=True)
class Cost:
    """What decoding and preprocessing take for each pixel."""

    seconds: float
    memory: float  # bytes

    def limit(self, file_bytes: int) -> int:
        """The pixels that a file of this size may have."""
        small = file_bytes < SMALL_FILE_BYTES
        seconds = SMALL_SECONDS if small else MAX_SECONDS
        return int(min(seconds / self.seconds, memory(file_bytes) / self.memory))


def memory(file_bytes: int) -> int:
    """The bytes of memory that decoding a file of this size may take."""
    return int(SMALL_MEMORY if file_bytes < SMALL_FILE_BYTES else MAX_MEMORY)


@cache
def png(bits: int) -> Cost:
    """The cost of a PNG with so many bits for each pixel.

    All rows with filter 4 (Paeth), 16 megapixels: 0.20 s with 8 bits, 0.28 s with 16, 0.41 s with 24, 0.54 s with 32
    (interlaced; 0.50 s if not), 0.78 s with 64.
    """
    return Cost(10e-9 + bits / 8 * 6e-9, 4.5)


PNG_DEEP_TRANSPARENT = Cost(95e-9, 20)  # 16 bits for each of red, green and blue, and tRNS: decoded twice
WEBP = Cost(
    25e-9, 16.7
)  # four pictures of 4 bytes a pixel: two of libwebp, its result, Pillow's; 0.28 s for 16 megapixels
AVIF = Cost(35e-9, 12)  # 8 bits, 4:2:0; 0.26 s and 102 MB for 3840×2160 with alpha channel
AVIF_DEEP = Cost(35e-9, 17)  # more bits, or 4:4:4 or 4:2:2
GIF = Cost(18e-9, 3)
BMP = Cost(15e-9, 6)
BMP_MASKED = Cost(70e-9, 45)  # in NumPy; a file of 10 MiB has up to 5.2 million pixels
BMP_RLE = Cost(300e-9, 8)  # decoded in Python; a row end in each row, and 1.2 s for a run for each of a million pixels
JPEG_BLOCK_SECONDS = 60e-9  # for each block (8×8 coefficients) of each scan: a refinement scan of 1 KB took 57 ns
JPEG_DRAFT_PIXELS, JPEG_PIXEL_SECONDS = 2**22, 10e-9  # a larger JPEG is decoded at reduced size


def jpeg_blocks(file_bytes: int) -> int:
    """The blocks that libjpeg may go through in a JPEG of this size, counted in all of its scans."""
    return int((SMALL_SECONDS if file_bytes < SMALL_FILE_BYTES else MAX_SECONDS) / JPEG_BLOCK_SECONDS)
