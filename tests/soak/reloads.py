"""A new checkpoint a hundred times, under load, with two workers: `python -m tests.soak.reloads`."""

import asyncio
import json
import re
import shutil
import sys
import tempfile
import time
from itertools import combinations
from pathlib import Path
from statistics import median

import torch
import uvloop

from tests.benchmarks.processes import Server, resident_bytes, tree
from tests.soak.load import MIB, MODEL, SHOE, Load, press, service, upload
from training.classifier.checkpoint import load as load_checkpoint
from training.classifier.model import Net

RELOADS, WARM_UP = 100, 25
WORKERS = 2
CONNECTIONS = 8
SERVING_SECONDS = 5
GROWTH_MIB = 0.2  # a reload
NAME = re.compile(rb'"model":"([^"]+)"')
PROCESS = re.compile(rb"x-request-id: (\w+)-")


def latest(load: Load) -> dict[bytes, str]:
    """Of each worker the model of its latest answer."""
    found = {}
    for answer in load.answers[-200:]:
        process, name = PROCESS.search(answer.head), NAME.search(answer.body)
        if process and name:
            found[process[1]] = name[1].decode()
    return found


async def reload_all(server: Server, load: Load, files: list[Path], model: Path) -> tuple[list[float], list[float]]:
    """Seconds until every worker served, and MiB of all workers, after each reload."""
    names = [load_checkpoint(file).model for file in files]
    seconds, mib = [], []
    for number in range(RELOADS):
        file, name = files[number % 2], names[number % 2]
        shutil.copy(file, model)
        begin = time.monotonic()
        load.answers.clear()
        while not (len(found := latest(load)) == WORKERS and set(found.values()) == {name}):
            if time.monotonic() - begin > SERVING_SECONDS:
                raise TimeoutError(f"after {SERVING_SECONDS} s {found} instead of {name}")
            await asyncio.sleep(0.02)
            if bad := [answer for answer in load.answers if answer.status != 200]:
                raise ValueError(f"{bad[0].status} {bad[0].body!r}")
        seconds.append(time.monotonic() - begin)
        mib.append(sum(sorted(map(resident_bytes, tree(server.process.pid)))[-WORKERS:]) / MIB)
    return seconds, mib


async def story(server: Server, files: list[Path], model: Path) -> tuple[Load, list[float], list[float]]:
    load, request = Load(), upload(SHOE)
    reloading = asyncio.create_task(reload_all(server, load, files, model))
    await press(load, lambda: request, CONNECTIONS, reloading.done)
    return load, *reloading.result()


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        model, other = Path(folder, "model.pt"), Path(folder, "other.pt")
        shutil.copy(MODEL, model)
        torch.save(Net().state_dict(), other)
        with service(WORKERS, model) as server:
            load, seconds, mib = uvloop.run(story(server, [other, MODEL], model))
    points = list(enumerate(mib))[WARM_UP:]
    slope = median((high - low) / (later - earlier) for (earlier, low), (later, high) in combinations(points, 2))
    held = load.resets == 0 and max(seconds) <= SERVING_SECONDS and slope < GROWTH_MIB
    found = {
        "reloads": len(seconds),
        "median_seconds": median(seconds),
        "slowest_seconds": max(seconds),
        "resets": load.resets,
        "mib_first": mib[WARM_UP],
        "mib_last": mib[-1],
        "mib_a_reload": slope,
    }
    print(
        f"{len(seconds)} reloads in {WORKERS} workers under load: every worker served the new model after "
        f"{median(seconds):.1f} s (slowest {max(seconds):.1f}); every answer 200, {load.resets} resets; "
        f"both workers' memory {mib[WARM_UP]:.0f} MiB after {WARM_UP}, {mib[-1]:.0f} at the end, "
        f"{1e3 * slope:+.0f} KiB a reload."
    )
    print(json.dumps({"reloads": found, "held": held}))
    return int(not held)


if __name__ == "__main__":
    sys.exit(main())
