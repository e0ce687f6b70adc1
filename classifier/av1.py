"""The size of the frames in AV1 data, from its sequence headers, without decoding."""

from classifier.boxes import number

TEMPORAL_DELIMITER, SEQUENCE_HEADER, FRAMES = 2, 1, (3, 6)  # types of units (OBU)
MAX_UNITS = 1_000


class Bits:
    """Reads numbers of some bits."""

    def __init__(self, content: bytes) -> None:
        self._value, self._left = int.from_bytes(content), 8 * len(content)

    def read(self, bits: int) -> int:
        """The next bits as a number. Raises ValueError at the end."""
        self._left -= bits
        if self._left < 0:
            raise ValueError("cut off")
        return self._value >> self._left & (1 << bits) - 1


def frame_pixels(units: bytes) -> int:
    """Width × height of AV1's sequence header, times the frames up to the next header. Raises ValueError.

    The format of the units is that of the AV1 specification, section 5.3.
    """
    at = pixels = frames = 0
    for _ in range(MAX_UNITS):
        if at >= len(units):
            return pixels * max(1, frames)
        head = units[at]
        at += 2 if head & 4 else 1  # with an extension
        size = shift = 0
        while head & 2:  # a size follows, 7 bits a byte
            byte = number(units, at, 1)
            size |= (byte & 127) << shift
            at, shift = at + 1, shift + 7
            if byte < 128 or shift > 28:
                break
        kind, end = head >> 3 & 15, at + size if head & 2 else len(units)
        if kind == SEQUENCE_HEADER:
            pixels = max(pixels, header_pixels(units[at : min(end, at + 200)]))
        if kind == TEMPORAL_DELIMITER and frames:  # the next frame of a sequence
            return pixels * frames
        frames += kind in FRAMES
        at = end
    raise ValueError("too many units")


def header_pixels(header: bytes) -> int:
    """Width × height of a sequence header (AV1 specification, section 5.5). Raises ValueError."""
    bits = Bits(header)
    bits.read(4)  # profile, still picture
    if bits.read(1):  # reduced header
        bits.read(5)
    else:
        skip_operating_points(bits)
    width_bits, height_bits = bits.read(4) + 1, bits.read(4) + 1
    return (bits.read(width_bits) + 1) * (bits.read(height_bits) + 1)


def skip_operating_points(bits: Bits) -> None:
    """Reads timing and operating points, which a sequence header that is not reduced has."""
    delay_bits = 0
    if bits.read(1):  # timing
        bits.read(64)
        if bits.read(1):  # equal intervals: the number of leading zeros is the number of bits that follow
            zeros = 0
            while not bits.read(1) and zeros < 32:
                zeros += 1
            bits.read(zeros)
        if bits.read(1):  # decoder model
            delay_bits = bits.read(5) + 1
            bits.read(42)
    display_delay = bits.read(1)
    for _ in range(bits.read(5) + 1):
        bits.read(12)
        if bits.read(5) > 7:
            bits.read(1)
        if delay_bits and bits.read(1):
            bits.read(2 * delay_bits + 1)
        if display_delay and bits.read(1):
            bits.read(4)
