"""What must hold besides the speed: start, memory, /health under load, a large JPEG, batches."""

import io
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from statistics import median

import httpx
import numpy as np
from PIL import Image

from benchmarks.contenders import CONTENDERS, SHOE, TIMEOUT_SECONDS, Running, running
from benchmarks.load import LoadError, form, press
from benchmarks.processes import forget_peak, peak_bytes, resident_bytes, tree
from benchmarks.rows import Row

MIB = 2**20
IMPORT = "import torch; print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmRSS')))"
HEALTH_CONNECTIONS, HEALTH_ASKED = 128, 5
JPEG_SIZE = (4000, 3000)
JPEG_TIMES = 9
MEMORY_POINTS = 20
BATCH = 64


def start_and_memory(weights: Path, cores: Sequence[int], scratch: Path, times: int) -> list[Row]:
    """Start, and resident memory after a short load, of a fresh worker beside a bare `import torch`, alternating."""
    ours = next(contender for contender in CONTENDERS if contender.name == "ours")
    import_torch(cores[0])  # once unmeasured: the disk's cache
    starts, residents, bare = [], [], []
    for _ in range(times):
        bare.append(import_torch(cores[0]))
        with running(ours, weights, cores, scratch, "/health") as runner:
            starts.append(runner.server.start_seconds)
            with runner.server.turn():
                runner.press(32, 1, cores)
                residents.append(resident_bytes(worker(runner)))
    seconds = [start / import_seconds for start, (import_seconds, _) in zip(starts, bare, strict=True)]
    memory = [resident / import_bytes for resident, (_, import_bytes) in zip(residents, bare, strict=True)]
    return [
        Row(
            "start to the first 200 of /health over `import torch`",
            median(seconds),
            1.5,
            at_least=False,
            note=f"{median(starts):.2f} s over {median(seconds for seconds, _ in bare):.2f} s",
        ),
        Row(
            "resident memory of a worker over a bare `import torch`",
            median(memory),
            1.3,
            at_least=False,
            note=f"{median(residents) / MIB:.0f} MiB over {median(size for _, size in bare) / MIB:.0f} MiB",
        ),
    ]


def worker(runner: Running) -> int:
    """The process that serves."""
    return max(tree(runner.server.process.pid), key=resident_bytes)


def import_torch(core: int) -> tuple[float, int]:
    """Seconds and resident bytes of a process that imports torch and does nothing."""
    begin = time.perf_counter()
    command = ["taskset", "-c", str(core), sys.executable, "-c", IMPORT]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return time.perf_counter() - begin, int(printed) * 2**10


def health_under_load(runner: Running, cores: Sequence[int], seconds: float) -> Row:
    """The median of five requests to /health while 128 connections press /predict."""
    took = []
    with ThreadPoolExecutor(1) as pool, httpx.Client(base_url=runner.url, timeout=TIMEOUT_SECONDS) as client:
        pressing = pool.submit(runner.press, HEALTH_CONNECTIONS, seconds, cores)
        for _ in range(HEALTH_ASKED):
            time.sleep(seconds / (HEALTH_ASKED + 2))  # asked all along the load, not all at its beginning
            begin = time.perf_counter()
            if client.get("/health").status_code != 200:
                raise LoadError("/health was not 200 under load")
            took.append(1e3 * (time.perf_counter() - begin))
        pressing.result()
    return Row("/health at 128 connections, ms", median(took), 50, at_least=False, note=f"slowest {max(took):.0f} ms")


def large_jpeg(runner: Running, cores: Sequence[int]) -> list[Row]:
    """A JPEG of twelve million pixels beside Pillow's own decoding at 1/8 of its size, alternating on the same core."""
    picture = jpeg()
    payload = form(picture, content_type="image/jpeg")
    pid = worker(runner)
    before, ours, pillow = resident_bytes(pid), [], []
    forget_peak(pid)
    with httpx.Client(base_url=runner.url, timeout=TIMEOUT_SECONDS) as client:
        for _ in range(JPEG_TIMES):
            begin = time.perf_counter()
            headers = {"Content-Type": payload.content_type}
            response = client.post("/predict", content=payload.content, headers=headers)
            ours.append(time.perf_counter() - begin)
            if response.status_code != 200:
                raise LoadError(f"the large JPEG: {response.status_code} {response.text[:200]}")
            with pinned(cores[0]):
                begin = time.perf_counter()
                opened = Image.open(io.BytesIO(picture))
                opened.draft(None, (JPEG_SIZE[0] // 8, JPEG_SIZE[1] // 8))
                opened.load()
                pillow.append(time.perf_counter() - begin)
    note = f"{1e3 * median(ours):.0f} ms over {1e3 * median(pillow):.0f} ms, {len(picture) / 1e6:.1f} MB"
    return [
        Row("a 12-megapixel JPEG over Pillow's decoding at 1/8", median(ours) / median(pillow), 4, None, False, note),
        Row("extra memory for it, MB", max(0, peak_bytes(pid) - before) / 1e6, 64, at_least=False),
    ]


def jpeg() -> bytes:
    """Soft shapes under a little grain, as a camera gives."""
    random = np.random.default_rng(0)
    shapes = Image.fromarray(random.integers(0, 256, (30, 40, 3), dtype=np.uint8)).resize(JPEG_SIZE)
    grain = random.integers(-6, 7, (JPEG_SIZE[1], JPEG_SIZE[0], 1))
    buffer = io.BytesIO()
    Image.fromarray((np.asarray(shapes) + grain).clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


@contextmanager
def pinned(core: int) -> Iterator[None]:
    """This thread on one core."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def memory_slope(runner: Running, cores: Sequence[int], requests: int) -> Row:
    """Growth of a worker's memory over about so many requests, in bytes a request: the median of all pairs' slopes
    (Theil 1950, Sen 1968), the first quarter left out as warm-up."""
    pid = worker(runner)
    points: list[tuple[int, int]] = []
    done, seconds = 0, 1.0
    while done < requests:
        load = runner.press(32, seconds, cores)
        done += load.requests
        points.append((done, resident_bytes(pid)))
        seconds = max(1, requests / MEMORY_POINTS / load.per_second)
    points = points[len(points) // 4 :]
    slopes = [(high - low) / (later - earlier) for (earlier, low), (later, high) in combinations(points, 2)]
    note = f"{done:,} requests, {points[0][1] / MIB:.1f} to {points[-1][1] / MIB:.1f} MiB"
    return Row("memory growth, bytes a request", median(slopes) if slopes else None, 1, at_least=False, note=note)


def batches(runner: Running, cores: Sequence[int], seconds: float) -> Row:
    """Pictures a second of a client that sends 64 a request over those of one that sends them one by one."""
    payload = form(*[SHOE] * BATCH)
    headers = {"Content-Type": payload.content_type}
    response = httpx.post(f"{runner.url}/predict/batch", content=payload.content, headers=headers)
    if response.status_code != 200 or response.text.count(runner.text) != BATCH:
        raise LoadError(f"/predict/batch: {response.status_code} {response.text[:200]}")
    ratios = []
    for _ in range(3):
        single = runner.press(1, seconds, cores)
        batch = press(f"{runner.url}/predict/batch", payload, runner.text, 1, seconds, cores[-1:])
        ratios.append(BATCH * batch.per_second / single.per_second)
    crowd = runner.press(32, seconds, cores)
    note = f"{BATCH * batch.per_second:,.0f} over {single.per_second:,.0f}; 32 such clients get {crowd.per_second:,.0f}"
    return Row(f"/predict/batch: pictures/s at {BATCH} a request over one by one", median(ratios), 3, note=note)
