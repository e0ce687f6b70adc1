"""200,000 damaged pictures of every accepted format: `python -m tests.soak.mutated_uploads [COUNT]`."""

import io
import json
import random
import sys
from collections.abc import Iterator

import numpy as np
import uvloop
from PIL import Image

from tests.soak.load import Load, memory, press, service, upload

COUNT = 200_000
CONNECTIONS = 16
SLOWEST_SECONDS = 1
EXPECTED = {200, 400, 413, 415, 422}
SIZES = ((28, 28), (28, 28), (61, 40), (150, 200), (400, 300))
MODES = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "JPEG": ("L", "RGB", "CMYK"),
    "WEBP": ("RGB", "RGBA"),
    "GIF": ("L", "P"),
    "BMP": ("1", "L", "P", "RGB"),
}
INTERESTING = (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\x01", b"\xff\xd8", b"\xff\xda")


def corpus() -> list[bytes]:
    pictures = []
    noise = np.random.default_rng(0)
    for size in SIZES:
        rgba = Image.fromarray(noise.integers(0, 256, (size[1] // 4 + 1, size[0] // 4 + 1, 4), dtype=np.uint8))
        drawing = rgba.resize(size)
        for kind, modes in MODES.items():
            for mode in modes:
                direct = "RGB" if mode in ("P", "1", "CMYK") else "L" if mode == "I;16" else mode
                picture = drawing.convert(direct).convert(mode)
                buffer = io.BytesIO()
                picture.save(buffer, kind)
                pictures.append(buffer.getvalue())
    return pictures


def mutated(pictures: list[bytes], chance: random.Random) -> Iterator[bytes]:
    """Without end: pictures with bytes changed, cut off, doubled, or taken from another."""
    while True:
        content = bytearray(chance.choice(pictures))
        for _ in range(chance.choice((1, 1, 2, 4, 16))):
            at = chance.randrange(len(content)) if chance.random() < 0.5 else chance.randrange(min(64, len(content)))
            match chance.randrange(5):
                case 0:
                    content[at] = chance.randrange(256)
                case 1:
                    content[at : at + 4] = chance.choice(INTERESTING)
                case 2:
                    del content[max(1, at) :]
                case 3:
                    content[at:at] = content[at : at + chance.randrange(1, 64)]
                case 4:
                    other = chance.choice(pictures)
                    content[at:] = other[at:] or content[at:]
        yield bytes(content)


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else COUNT
    requests = map(upload, mutated(corpus(), random.Random(0)))
    load = Load()
    with service() as server:
        warm = Load()
        uvloop.run(press(warm, lambda: next(requests), CONNECTIONS, lambda: len(warm.answers) > count // 10))
        before = memory(server)
        uvloop.run(press(load, lambda: next(requests), CONNECTIONS, lambda: len(load.answers) > count))
        after = memory(server)
        alive = server.process.poll() is None
    slowest = max(answer.took for answer in load.answers)
    held = load.statuses().keys() <= EXPECTED and slowest < SLOWEST_SECONDS and alive and after < 1.15 * before
    found = {
        "uploads": len(load.answers),
        "statuses": load.statuses(),
        "resets": load.resets,
        "slowest_seconds": slowest,
        "mib_before": before,
        "mib_after": after,
    }
    print(
        f"{len(load.answers):,} damaged pictures: statuses {load.statuses()}, {load.resets} resets, the slowest answer "
        f"took {1e3 * slowest:.0f} ms; memory {before:.0f} MiB before, {after:.0f} after."
    )
    print(json.dumps({"mutated_uploads": found, "held": held and load.resets == 0}))
    return int(not (held and load.resets == 0))


if __name__ == "__main__":
    sys.exit(main())
