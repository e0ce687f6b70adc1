"""Limits other than requests/s: start time, memory, /health under load, a large JPEG, batches."""

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

from benchmarks.contenders import CONTENDERS, SHOE, TIMEOUT_SECONDS, RunningContender, start_contender
from benchmarks.load import LoadError, generate_load, multipart_form
from benchmarks.processes import peak_bytes, process_tree, reset_peak, resident_bytes
from benchmarks.rows import Row

MIB = 2**20
IMPORT = "import torch; print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmRSS')))"
HEALTH_CONNECTIONS, HEALTH_REQUESTS = 128, 5
JPEG_SIZE = (4000, 3000)  # width, height
JPEG_REQUESTS = 9
MEMORY_POINTS = 20
BATCH = 64  # pictures


def start_and_memory(weights: Path, cores: Sequence[int], scratch: Path, times: int) -> list[Row]:
    """Start time of a fresh worker, and its memory after a short load, over those of a bare `import torch`.

    The two alternate, `times` times each.
    """
    ours = next(contender for contender in CONTENDERS if contender.name == "ours")
    import_torch(cores[0])  # fills the disk cache; not measured
    starts, residents, imports = [], [], []
    for _ in range(times):
        imports.append(import_torch(cores[0]))
        with start_contender(ours, weights, cores, scratch, "/health") as runner:
            starts.append(runner.server.start_seconds)
            with runner.server.resumed():
                runner.generate_load(32, 1, cores)
                residents.append(resident_bytes(worker_pid(runner)))
    seconds = [start / import_seconds for start, (import_seconds, _) in zip(starts, imports, strict=True)]
    memory = [resident / import_bytes for resident, (_, import_bytes) in zip(residents, imports, strict=True)]
    return [
        Row(
            "start to the first 200 of /health over `import torch`",
            median(seconds),
            1.5,
            at_least=False,
            note=f"{median(starts):.2f} s over {median(seconds for seconds, _ in imports):.2f} s",
        ),
        Row(
            "resident memory of a worker over a bare `import torch`",
            median(memory),
            1.3,
            at_least=False,
            note=f"{median(residents) / MIB:.0f} MiB over {median(size for _, size in imports) / MIB:.0f} MiB",
        ),
    ]


def worker_pid(runner: RunningContender) -> int:
    """The process that serves: of its tree, the one with the most memory."""
    return max(process_tree(runner.server.process.pid), key=resident_bytes)


def import_torch(core: int) -> tuple[float, int]:
    """Seconds and resident bytes of a process that imports torch and does nothing else."""
    begin = time.perf_counter()
    command = ["taskset", "-c", str(core), sys.executable, "-c", IMPORT]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return time.perf_counter() - begin, int(printed) * 2**10


def health_under_load(runner: RunningContender, cores: Sequence[int], seconds: float) -> Row:
    """The median time of five requests to /health while 128 connections post to /predict."""
    times_ms = []
    with ThreadPoolExecutor(1) as pool, httpx.Client(base_url=runner.url, timeout=TIMEOUT_SECONDS) as client:
        load = pool.submit(runner.generate_load, HEALTH_CONNECTIONS, seconds, cores)
        for _ in range(HEALTH_REQUESTS):
            time.sleep(seconds / (HEALTH_REQUESTS + 2))  # spreads the requests over the load
            begin = time.perf_counter()
            if client.get("/health").status_code != 200:
                raise LoadError("/health did not answer 200 under load")
            times_ms.append(1e3 * (time.perf_counter() - begin))
        load.result()
    note = f"slowest {max(times_ms):.0f} ms"
    return Row("/health at 128 connections, ms", median(times_ms), 50, at_least=False, note=note)


def large_jpeg(runner: RunningContender, cores: Sequence[int]) -> list[Row]:
    """Time and memory of a 12-megapixel JPEG; the time over that of Pillow's reduced decoding (1/8).

    The two alternate on the same core.
    """
    picture = jpeg()
    payload = multipart_form(picture, content_type="image/jpeg")
    pid = worker_pid(runner)
    before, ours, pillow = resident_bytes(pid), [], []
    reset_peak(pid)
    with httpx.Client(base_url=runner.url, timeout=TIMEOUT_SECONDS) as client:
        for _ in range(JPEG_REQUESTS):
            begin = time.perf_counter()
            headers = {"Content-Type": payload.content_type}
            response = client.post("/predict", content=payload.content, headers=headers)
            ours.append(time.perf_counter() - begin)
            if response.status_code != 200:
                raise LoadError(f"large JPEG: {response.status_code} {response.text[:200]}")
            with pinned(cores[0]):
                begin = time.perf_counter()
                opened = Image.open(io.BytesIO(picture))
                opened.draft(None, (JPEG_SIZE[0] // 8, JPEG_SIZE[1] // 8))
                opened.load()
                pillow.append(time.perf_counter() - begin)
    note = f"{1e3 * median(ours):.0f} ms over {1e3 * median(pillow):.0f} ms, {len(picture) / 1e6:.1f} MB"
    ratio, extra = median(ours) / median(pillow), max(0, peak_bytes(pid) - before)
    return [
        Row("12-megapixel JPEG, time over Pillow's decoding at 1/8", ratio, 4, at_least=False, note=note),
        Row("12-megapixel JPEG, extra memory, MB", extra / 1e6, 64, at_least=False),
    ]


def jpeg() -> bytes:
    """A JPEG of smooth shapes with a little noise, similar to a photograph."""
    random = np.random.default_rng(0)
    shapes = Image.fromarray(random.integers(0, 256, (30, 40, 3), dtype=np.uint8)).resize(JPEG_SIZE)
    noise = random.integers(-6, 7, (JPEG_SIZE[1], JPEG_SIZE[0], 1))
    buffer = io.BytesIO()
    Image.fromarray((np.asarray(shapes) + noise).clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


@contextmanager
def pinned(core: int) -> Iterator[None]:
    """Runs this thread on one core."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def memory_slope(runner: RunningContender, cores: Sequence[int], requests: int) -> Row:
    """Growth of a worker's memory over about `requests` requests, in bytes a request.

    The slope is the median of the slopes of all pairs of points (Theil 1950, Sen 1968). The first quarter of the
    points is warm-up and does not count.
    """
    pid = worker_pid(runner)
    points: list[tuple[int, int]] = []  # requests so far, resident bytes
    done, seconds = 0, 1.0
    while done < requests:
        load = runner.generate_load(32, seconds, cores)
        done += load.requests
        points.append((done, resident_bytes(pid)))
        seconds = max(1, requests / MEMORY_POINTS / load.per_second)
    points = points[len(points) // 4 :]
    slopes = [(high - low) / (later - earlier) for (earlier, low), (later, high) in combinations(points, 2)]
    note = f"{done:,} requests, {points[0][1] / MIB:.1f} to {points[-1][1] / MIB:.1f} MiB"
    return Row("memory growth, bytes a request", median(slopes) if slopes else None, 1, at_least=False, note=note)


def batches(runner: RunningContender, cores: Sequence[int], seconds: float) -> Row:
    """Pictures/s of one client that sends 64 pictures a request over those of one that sends single pictures."""
    url, payload = f"{runner.url}/predict/batch", multipart_form(*[SHOE] * BATCH)
    headers = {"Content-Type": payload.content_type}
    response = httpx.post(url, content=payload.content, headers=headers)
    if response.status_code != 200 or response.text.count(runner.text) != BATCH:
        raise LoadError(f"/predict/batch: {response.status_code} {response.text[:200]}")
    ratios = []
    for _ in range(3):
        single = runner.generate_load(1, seconds, cores)
        batch = generate_load(url, payload, runner.text, 1, seconds, cores[-1:])
        ratios.append(BATCH * batch.per_second / single.per_second)
    parallel = runner.generate_load(32, seconds, cores)
    note = (
        f"{BATCH * batch.per_second:,.0f} over {single.per_second:,.0f}; "
        f"32 clients with single pictures: {parallel.per_second:,.0f}"
    )
    label = f"/predict/batch, pictures/s of one client, {BATCH} a request over 1 a request"
    return Row(label, median(ratios), 3, note=note)
