"""Soak test: pictures of every format with random mutations (fuzzing):
`python -m benchmarks.soak.mutated_uploads [--uploads 200000]`.
"""

import argparse
import asyncio
import io
import os
import random
import sys
import time
from collections.abc import Iterator

import uvloop
from PIL import Image

from benchmarks.soak.client import FAILED, Connection, RequestStats, request
from benchmarks.soak.service_process import SHOE, Service, print_verdict, run_service

CONNECTIONS = 8
SEED = 0
SIZES = ((28, 28), (61, 47))  # width, height
MODES = {  # format -> Pillow modes
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "JPEG": ("L", "RGB", "CMYK"),
    "WEBP": ("RGB", "RGBA"),
    "AVIF": ("L", "RGB", "RGBA"),
    "GIF": ("1", "L", "P"),
    "BMP": ("1", "L", "P", "RGB"),
}
MAX_MUTATIONS = 8  # of a file
WARMUP_FRACTION = 0.2  # of the uploads; memory is compared from then on
MAX_SECONDS = 1.0
MAX_GROWTH = 1.05
MEMORY_POINTS = 20


def corpus() -> list[bytes]:
    """A file for each format, mode and size, and progressive, lossless, animated and interlaced files."""
    files = [SHOE]
    for size in SIZES:
        noise = Image.effect_noise(size, 90.0)
        colour = Image.merge("RGB", [noise, noise.rotate(90, expand=False), Image.linear_gradient("L").resize(size)])
        for format, modes in MODES.items():
            for mode in modes:
                picture = (noise if mode in ("1", "L", "LA", "I;16") else colour).convert(mode.replace("I;16", "I"))
                files.append(encode(picture.convert(mode), format))
        files.append(encode(colour, "JPEG", progressive=True))
        files.append(encode(colour, "WEBP", lossless=True))
        files.append(encode(colour, "AVIF", save_all=True, append_images=[colour.rotate(180)]))
        files.append(encode(colour.convert("P"), "GIF", save_all=True, append_images=[noise.convert("P")]))
        files.append(encode(noise, "PNG", interlace=True))
    return files


def encode(picture: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def mutate(files: list[bytes], random: random.Random) -> bytes:
    """A random file with 1 to MAX_MUTATIONS mutations: bytes changed, deleted, repeated, or taken from another file."""
    content = bytearray(random.choice(files))
    for _ in range(random.randint(1, MAX_MUTATIONS)):
        place = random.randrange(len(content)) if random.random() < 0.5 else random.randrange(min(64, len(content)))
        end = place + random.randint(1, 16)
        kind = random.randrange(6)
        if kind == 0:
            content[place] ^= 1 << random.randrange(8)
        elif kind == 1:
            content[place] = random.choice((0, 1, 0x7F, 0x80, 0xFF, random.randrange(256)))
        elif kind == 2:
            content[place:end] = random.randbytes(end - place)
        elif kind == 3:
            del content[place:end]
        elif kind == 4:
            content[place:place] = content[place:end]
        else:
            other = random.choice(files)
            content[place:] = other[min(place, len(other) - 1) :]
        content = content or bytearray(1)
    return bytes(content)


class Uploads:
    """Sends the mutated files and keeps the results."""

    def __init__(self, service: Service, count: int) -> None:
        self.service = service
        self.count = count
        self.files = corpus()
        self.random = random.Random(SEED)
        self.stats = RequestStats()
        self.slow: list[bytes] = []
        self.failed: list[tuple[int, bytes]] = []
        self.megabytes: list[float] = []
        self._numbers = iter(range(count))

    def messages(self) -> Iterator[tuple[bytes, bytes]]:
        """Yields contents and their requests: every other one as the body, the rest in a multipart form."""
        for number in self._numbers:
            if number % max(1, self.count // MEMORY_POINTS) == 0:
                self.megabytes.append(self.service.megabytes())
            content = mutate(self.files, self.random)
            yield content, request(content) if number % 2 else multipart_form(content)

    async def send(self) -> None:
        connection = Connection(self.service.port)
        for content, message in self.messages():
            begin = time.perf_counter()
            try:
                status = (await connection.send(message)).status
            except (OSError, EOFError, TimeoutError) as error:
                status = FAILED
                self.stats.errors[f"{type(error).__name__}: {error}"] += 1
            seconds = time.perf_counter() - begin
            self.stats.add(status, seconds)
            if seconds > MAX_SECONDS:
                self.slow.append(content)
            if status == FAILED or status >= 500:
                self.failed.append((status, content))
        connection.close()

    async def send_all(self) -> None:
        await asyncio.gather(*(self.send() for _ in range(CONNECTIONS)))


def multipart_form(content: bytes) -> bytes:
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
    return request(head + content + b"\r\n--x--\r\n", "multipart/form-data; boundary=x")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak.mutated_uploads", description=__doc__)
    parser.add_argument("--uploads", type=int, default=200_000, metavar="N", help="default: 200000")
    count = parser.parse_args().uploads
    print(f"The load average is {os.getloadavg()[0]:.1f} before the start.")
    with run_service() as service:
        uploads = Uploads(service, count)
        uvloop.run(uploads.send_all())
        uploads.megabytes.append(service.megabytes())
        alive = service.predict().status_code == 200
    stats, megabytes = uploads.stats, uploads.megabytes
    warm = megabytes[round(WARMUP_FRACTION * len(megabytes))]
    print(f"{count:,} uploads, mutations of {len(uploads.files)} files with seed {SEED}: statuses {stats.statuses()}.")
    print(f"The slowest answer took {1e3 * stats.slowest():.0f} ms; {len(uploads.slow)} over {MAX_SECONDS:g} s.")
    print(
        f"Memory: {megabytes[0]:.0f} MiB before, {warm:.0f} MiB after the warm-up, {megabytes[-1]:.0f} MiB at the end."
    )
    for status, content in uploads.failed[:3]:
        print(f"Status {status} for {content[:400].hex()}")
    for content in uploads.slow[:3]:
        print(f"Slow: {content[:400].hex()}")
    return print_verdict(
        "mutated_uploads",
        {
            "uploads": count,
            "statuses": stats.statuses(),
            "slowest_ms": 1e3 * stats.slowest(),
            "megabytes": [round(value, 1) for value in megabytes],
        },
        {
            "every upload is answered, none with 5xx": not uploads.failed,
            "the service still answers": alive,
            f"no answer takes over {MAX_SECONDS:g} s": not uploads.slow,
            "memory does not grow": megabytes[-1] <= MAX_GROWTH * warm,
        },
    )


if __name__ == "__main__":
    sys.exit(main())
