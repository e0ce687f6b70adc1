"""Pictures of every format, damaged at random: `python -m benchmarks.soak.mutated_uploads [--uploads 200000]`."""

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

from benchmarks.soak.client import FAILED, Connection, Tally, request
from benchmarks.soak.running import SHOE, Service, close, running

CONNECTIONS = 8
SEED = 0
SIZES = ((28, 28), (61, 47))  # width, height
MODES = {  # of the pictures in each format
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "JPEG": ("L", "RGB", "CMYK"),
    "WEBP": ("RGB", "RGBA"),
    "GIF": ("1", "L", "P"),
    "BMP": ("1", "L", "P", "RGB"),
}
MOST_CHANGES = 8
WARM_SHARE = 0.2  # of the uploads, before memory is compared
MAX_SECONDS = 1.0
MAX_GROWTH = 1.05
REPORT = 20  # times in all that memory is read


def corpus() -> list[bytes]:
    """One file for each format, mode and size, and some of the rarer ways to write them."""
    files = [SHOE]
    for size in SIZES:
        noise = Image.effect_noise(size, 90.0)
        colour = Image.merge("RGB", [noise, noise.rotate(90, expand=False), Image.linear_gradient("L").resize(size)])
        for format, modes in MODES.items():
            for mode in modes:
                picture = (noise if mode in ("1", "L", "LA", "I;16") else colour).convert(mode.replace("I;16", "I"))
                files.append(encoded(picture.convert(mode), format))
        files.append(encoded(colour, "JPEG", progressive=True))
        files.append(encoded(colour, "WEBP", lossless=True))
        files.append(encoded(colour.convert("P"), "GIF", save_all=True, append_images=[noise.convert("P")]))
        files.append(encoded(noise, "PNG", interlace=True))
    return files


def encoded(picture: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def mutated(files: list[bytes], random: random.Random) -> bytes:
    """One of the files with a few bytes changed, taken out, doubled, or of another file."""
    content = bytearray(random.choice(files))
    for _ in range(random.randint(1, MOST_CHANGES)):
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
    """What was sent and what came of it."""

    def __init__(self, service: Service, most: int) -> None:
        self.service = service
        self.most = most
        self.files = corpus()
        self.random = random.Random(SEED)
        self.tally = Tally()
        self.slow: list[bytes] = []
        self.bad: list[tuple[int, bytes]] = []
        self.megabytes: list[float] = []
        self._numbers = iter(range(most))

    def messages(self) -> Iterator[tuple[bytes, bytes]]:
        """Contents, and the requests that hold them; half of them as the body, half in a form."""
        for number in self._numbers:
            if number % max(1, self.most // REPORT) == 0:
                self.megabytes.append(self.service.megabytes())
            content = mutated(self.files, self.random)
            yield content, request(content) if number % 2 else form(content)

    async def ask(self) -> None:
        connection = Connection(self.service.port)
        for content, message in self.messages():
            begin = time.perf_counter()
            try:
                status = (await connection.ask(message)).status
            except (OSError, EOFError, TimeoutError) as error:
                status = FAILED
                self.tally.errors[f"{type(error).__name__}: {error}"] += 1
            seconds = time.perf_counter() - begin
            self.tally.add(status, seconds)
            if seconds > MAX_SECONDS:
                self.slow.append(content)
            if status == FAILED or status >= 500:
                self.bad.append((status, content))
        connection.close()

    async def all(self) -> None:
        await asyncio.gather(*(self.ask() for _ in range(CONNECTIONS)))


def form(content: bytes) -> bytes:
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
    return request(head + content + b"\r\n--x--\r\n", "multipart/form-data; boundary=x")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak.mutated_uploads", description=__doc__)
    parser.add_argument("--uploads", type=int, default=200_000, help="(200000)")
    most = parser.parse_args().uploads
    print(f"The load average is {os.getloadavg()[0]:.1f} before the start.")
    with running() as service:
        uploads = Uploads(service, most)
        uvloop.run(uploads.all())
        uploads.megabytes.append(service.megabytes())
        alive = service.predict().status_code == 200
    tally, megabytes = uploads.tally, uploads.megabytes
    warm = megabytes[round(WARM_SHARE * len(megabytes))]
    print(f"{most:,} uploads, mutated from {len(uploads.files)} files with seed {SEED}: statuses {tally.statuses()}.")
    print(f"The slowest answer took {1e3 * tally.slowest():.0f} ms; {len(uploads.slow)} over {MAX_SECONDS:g} s.")
    print(f"Memory: {megabytes[0]:.0f} MiB before, {warm:.0f} MiB once warm, {megabytes[-1]:.0f} MiB at the end.")
    for status, content in uploads.bad[:3]:
        print(f"Status {status} for {content[:400].hex()}")
    for content in uploads.slow[:3]:
        print(f"Slow: {content[:400].hex()}")
    return close(
        "mutated_uploads",
        {
            "uploads": most,
            "statuses": tally.statuses(),
            "slowest_ms": 1e3 * tally.slowest(),
            "megabytes": [round(value, 1) for value in megabytes],
        },
        {
            "every upload has an answer, none of it 5xx": not uploads.bad,
            "the service lives": alive,
            f"no answer takes over {MAX_SECONDS:g} s": not uploads.slow,
            "memory does not grow": megabytes[-1] <= MAX_GROWTH * warm,
        },
    )


if __name__ == "__main__":
    sys.exit(main())
