"""Search for pictures that cost much: `python -m benchmarks.soak.costly_pictures [FORMAT ...] [--minutes 10]`.

For each format it draws and encodes pictures with random options, mutates the costliest so far, and measures each in a
process of its own: seconds of a core and memory, over what the limits of `classifier.limits` allow. Needs Linux.
"""

import argparse
import ctypes
import io
import json
import os
import random
import struct
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.soak.service_process import print_verdict
from classifier import limits
from classifier.picture import PictureError
from classifier.preprocessing import prepare
from service.decode_process import ENVIRONMENT

FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP")
M_MMAP_THRESHOLD = -3  # of mallopt(3)
KEPT = 8  # costliest files of a format, which are mutated
MAX_BYTES = 10 * 2**20
TOLERANCE = 1.15  # of the figures, on a machine that others share
SEED = 0

Score = tuple[float, float, float, bytes]  # cost over the limit, seconds, bytes of memory, the file


def draw(generator: random.Random, format: str) -> Image.Image:
    """A picture of random size, content and mode."""
    pixels = generator.choice((1, 2, 4, 5, 6, 8, 8)) * 1_000_000
    aspect = generator.choice((1, 1, 1, 4, 0.25, 60, 1 / 60))
    width = min(16_383, max(1, round((pixels * aspect) ** 0.5)))
    size = (width, max(1, min(16_383, pixels // width)))
    small = (min(size[0], 64), min(size[1], 64))
    levels = np.random.default_rng(generator.randrange(2**32)).integers(0, 256, (small[1], small[0], 4), dtype=np.uint8)
    kind = generator.randrange(4)
    if kind == 0:  # flat
        picture = Image.new("RGBA", size, tuple(levels[0, 0].tolist()))
    elif kind == 1:  # repeated noise
        tiled = np.tile(levels, (-(-size[1] // small[1]), -(-size[0] // small[0]), 1))[: size[1], : size[0]]
        picture = Image.fromarray(np.ascontiguousarray(tiled))
    elif kind == 2:  # noise in a corner
        picture = Image.new("RGBA", size, (255, 255, 255, 255))
        picture.paste(Image.fromarray(levels), (0, 0))
    else:  # smooth
        picture = Image.fromarray(levels[:8, :8]).resize(size, Image.Resampling.BILINEAR)
    modes = {"JPEG": ("L", "RGB", "CMYK"), "WEBP": ("RGB", "RGBA"), "AVIF": ("RGB", "RGBA"), "GIF": ("L", "P")}
    return picture.convert(generator.choice(modes.get(format, ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")[:7])))


def encode(generator: random.Random, format: str) -> bytes:
    """A random file. Raises ValueError, OSError if the encoder does not take the options."""
    picture = draw(generator, format)
    choose = generator.choice
    table: dict[str, dict[str, Any]] = {
        "PNG": {"compress_level": choose((1, 9)), "transparency": choose((None, 0))},
        "JPEG": {
            "progressive": choose((False, True)),
            "quality": choose((1, 30, 95)),
            "subsampling": choose((0, 1, 2)),
        },
        "WEBP": {"lossless": choose((False, True)), "method": choose((0, 4)), "quality": choose((0, 50, 100))},
        "AVIF": {"speed": choose((8, 10)), "quality": choose((1, 50, 90)), "subsampling": choose(("4:2:0", "4:4:4"))},
        "GIF": {"transparency": choose((None, 0)), "interlace": choose((0, 1))},
        "BMP": {},
    }
    buffer = io.BytesIO()
    picture.save(buffer, format, **{name: value for name, value in table[format].items() if value is not None})
    return buffer.getvalue()


def mutate(generator: random.Random, content: bytes, format: str) -> bytes:
    """The file with some bytes changed, repeated or removed, more often in its header; a PNG with right checksums."""
    changed = bytearray(content)
    for _ in range(generator.choice((1, 2, 4))):
        at = generator.randrange(min(len(changed), generator.choice((64, 400, len(changed)))))
        kind, length = generator.randrange(4), generator.choice((1, 2, 4, 64))
        if kind < 2:
            changed[at : at + length] = generator.choice((generator.randbytes(length), b"\xff" * length, bytes(length)))
        elif kind == 2:
            changed[at:at] = changed[at : at + 16 * length]
        else:
            del changed[at : at + length]
    return right_checksums(changed) if format == "PNG" else bytes(changed)


def right_checksums(content: bytearray) -> bytes:
    at = 8
    while at + 12 <= len(content):
        end = at + 8 + int.from_bytes(content[at : at + 4])
        if end + 4 > len(content):
            break
        struct.pack_into(">I", content, end, zlib.crc32(content[at + 4 : end]))
        at = end + 4
    return bytes(content)


def measure(content: bytes) -> tuple[float, float]:
    """Seconds of a core and bytes of memory that reading the picture takes, in a process of its own."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        ctypes.CDLL(None).malloc_trim(0)  # else memory that the search freed is used again, and not counted
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
        before, begin = status("VmRSS"), time.process_time()
        try:
            prepare(content, photos=True)
        except PictureError:
            pass
        finally:
            os.write(writer, json.dumps((time.process_time() - begin, status("VmHWM") - before)).encode())
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as result:
        text = result.read()
    os.waitpid(child, 0)
    seconds, memory = json.loads(text)
    return seconds, memory


def status(name: str) -> float:
    """A size in bytes from /proc/self/status."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name)]
    return 1024.0 * int(line.split()[1])


def score(content: bytes) -> Score:
    seconds, memory = measure(content)
    small = len(content) < limits.SMALL_FILE_BYTES
    allowed = limits.SMALL_SECONDS if small else limits.MAX_SECONDS
    return max(seconds / allowed, memory / limits.memory(len(content))), seconds, memory, content


def search(format: str, minutes: float) -> list[Score]:
    """The costliest files found, the costliest first."""
    generator = random.Random(SEED)
    costliest: list[Score] = []
    tried, end = 0, time.monotonic() + 60 * minutes
    while time.monotonic() < end:
        try:
            if len(costliest) < KEPT or generator.random() < 0.2:
                content = encode(generator, format)
            else:
                content = mutate(generator, generator.choice(costliest)[3], format)
        except (OSError, ValueError):
            continue
        if len(content) <= MAX_BYTES:
            costliest = sorted((*costliest, score(content)), key=lambda found: found[0], reverse=True)[:KEPT]
            tried += 1
    print(f"{format}: {tried:,} files.")
    for _, seconds, memory, content in costliest[:3]:
        print(f"  {len(content):,} bytes: {seconds:.3f} s, {memory / 1e6:.0f} MB, begins {content[:48].hex()}")
    return costliest


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak.costly_pictures", description=__doc__)
    parser.add_argument("formats", nargs="*", default=FORMATS, metavar="FORMAT", help="default: all")
    parser.add_argument("--minutes", type=float, default=10, help="for each format; default: 10")
    parser.add_argument("--save", type=Path, metavar="DIR", help="writes the costliest file of each format there")
    options = parser.parse_args()
    ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, int(ENVIRONMENT["MALLOC_MMAP_THRESHOLD_"]))  # as in the decode process
    worst: dict[str, object] = {}
    checks = {}
    for format in options.formats:
        found = search(format, options.minutes)
        worst[format] = {"cost": found[0][0], "seconds": found[0][1], "bytes": found[0][2]}
        checks[f"no {format} is over its limit"] = found[0][0] <= TOLERANCE
        if options.save:
            (options.save / format.lower()).write_bytes(found[0][3])
    return print_verdict("costly_pictures", worst, checks)


if __name__ == "__main__":
    sys.exit(main())
