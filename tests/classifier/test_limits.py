"""The costliest files found for each format stay within what a file may cost."""

import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from classifier import limits
from classifier.picture import open_picture
from tests.classifier.hostile import bmp_rle
from tests.classifier.test_hostile_pictures import PNG_SIGNATURE, chunk, encode
from tests.classifier.test_jpeg import small_scans

FOUND = Path(__file__).parent / "costly"
# Prints the seconds of a core and the bytes of memory that reading a picture takes.
PROGRAM = """
import sys, time
from pathlib import Path
from classifier.preprocessing import prepare

def memory(name):
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name)]
    return 1024 * int(line.split()[1])

content = Path(sys.argv[1]).read_bytes()
before, begin = memory("VmRSS"), time.process_time()
prepare(content, photos=True)
print(time.process_time() - begin, memory("VmHWM") - before)
"""
TIMES = 10  # the limit of time, on a slow machine that others share
MORE_MEMORY = 1.2  # times its limit: the memory of an allocator


def paeth_png(width: int, height: int, depth: int, colour: int, *chunks: bytes) -> bytes:
    """A PNG whose rows all have filter 4 (Paeth), the costliest."""
    channels = {0: 1, 2: 3, 6: 4}[colour]
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    rows = (b"\4" + b"\1" * (width * channels * depth // 8)) * height
    return b"".join((PNG_SIGNATURE, header, *chunks, chunk(b"IDAT", zlib.compress(rows, 9)), chunk(b"IEND")))


def alpha(side: int) -> Image.Image:
    """Flat colours, and an alpha channel of repeated noise."""
    picture = Image.new("RGBA", (side, side), (200, 20, 20, 255))
    noise = np.tile(np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8), (side // 64 + 1,) * 2)
    picture.putalpha(Image.fromarray(np.ascontiguousarray(noise[:side, :side])))
    return picture


def smooth(side: int) -> Image.Image:
    picture = Image.linear_gradient("L").resize((side, side)).convert("RGBA")
    picture.putalpha(Image.radial_gradient("L").resize((side, side)))
    return picture


COSTLY: dict[str, Callable[[], bytes]] = {
    "PNG, RGBA": lambda: paeth_png(2_950, 2_950, 8, 6),
    "PNG, 16 bits": lambda: paeth_png(2_200, 2_200, 16, 6),
    "PNG, 16 bits, transparent colour": lambda: paeth_png(1_750, 1_750, 16, 2, chunk(b"tRNS", b"\0\1" * 3)),
    "PNG, wide": lambda: paeth_png(65_535, 130, 8, 6),
    "WebP, lossless": lambda: encode(Image.new("RGBA", (2_400, 2_400)), "WEBP", lossless=True, method=0),
    "WebP, lossless, alpha": lambda: encode(alpha(2_400), "WEBP", lossless=True, method=0),
    "AVIF, alpha": lambda: encode(smooth(2_800), "AVIF", speed=10, quality=1),
    "JPEG, refinement scans": lambda: small_scans(2_600, 24, components=3),
    "JPEG, CMYK": lambda: small_scans(2_200, 24),
    "GIF": lambda: encode(Image.new("P", (4_000, 4_000)), "GIF", transparency=0),
    "BMP, a row end in each row": lambda: bmp_rle(1_000, 800, b"\1\5\0\0" * 800),
    # The costliest of 10 minutes of benchmarks.soak.costly_pictures over each format; no BMP was costly.
    **{f"found, {path.name}": path.read_bytes for path in sorted(FOUND.iterdir())},
}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads memory from /proc")
@pytest.mark.parametrize("name", COSTLY)
def test_the_costliest_small_files_stay_within_the_limits(name: str, tmp_path: Path) -> None:
    path = tmp_path / "picture"
    path.write_bytes(COSTLY[name]())
    assert path.stat().st_size < limits.SMALL_FILE_BYTES
    process = subprocess.run([sys.executable, "-c", PROGRAM, str(path)], capture_output=True, text=True, check=True)
    seconds, memory = map(float, process.stdout.split())
    assert seconds < TIMES * limits.SMALL_SECONDS
    assert memory < MORE_MEMORY * limits.SMALL_MEMORY


@pytest.mark.parametrize(
    "content",
    [
        lambda: encode(Image.effect_noise((3_000, 2_000), 30.0).convert("RGB"), "WEBP", quality=60, method=0),
        lambda: encode(Image.effect_noise((3_000, 2_000), 30.0).convert("RGB"), "PNG", compress_level=1),
        lambda: encode(Image.effect_noise((3_000, 2_000), 30.0).convert("RGB"), "JPEG", progressive=True),
        lambda: encode(Image.effect_noise((3_000, 2_000), 30.0).convert("RGB"), "AVIF", speed=10),
        lambda: encode(Image.new("RGB", (1_920, 1_080)), "WEBP"),
        lambda: encode(Image.new("RGB", (3_840, 2_160)), "AVIF", speed=10),
    ],
    ids=["webp", "png", "jpeg", "avif", "small webp", "small avif"],
)
def test_photos_and_screenshots_are_within_the_limits(content: Callable[[], bytes]) -> None:
    open_picture(content())
