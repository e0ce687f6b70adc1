"""Rate and memory of bulk scoring: `python -m benchmarks.bench_bulk [--rows 100000 500000 1000000]`. Needs Linux.

Scores Parquet with the 70,000 images of Fashion-MNIST as PNG, repeated, and compares the rate with that of a core that
decodes and predicts without Ray, in the same run. Needs the extra `cluster`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from pyarrow import dataset, parquet

from benchmarks.bench_pictures import encoded
from benchmarks.processes import process_tree, proportional_bytes
from classifier.preprocessing import prepare
from service.bulk import CHECKPOINT
from training import data
from training.predict import load_classifiers

BATCH = 64
REFERENCE_IMAGES = 20_000
POLL_SECONDS = 0.5


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_bulk", description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 500_000, 1_000_000], metavar="N")
    options = parser.parse_args()
    torch.set_num_threads(1)
    pictures = pa.array([encoded(pixels) for images in data.load() for pixels in images.array()[:, 0]])
    one_core = reference_rate(pictures)
    cores = len(os.sched_getaffinity(0))
    print(f"One core alone: {one_core:,.0f} pictures a second; {cores} cores.")
    results = []
    for rows in options.rows:
        with tempfile.TemporaryDirectory() as folder:
            result = measure(Path(folder), pictures, rows)
        results.append(result | {"share": result["rows_per_second"] / one_core / cores})
        print("{rows:>9,} rows: {seconds:6.1f} s, {rows_per_second:,.0f} a second, {share:.2f} of all cores, at most "
              "{megabytes:,} MB".format(**results[-1]))  # fmt: skip
    first, last = results[0], results[-1]
    slope = None
    if last["rows"] > first["rows"]:
        slope = (last["rows"] - first["rows"]) / (last["seconds"] - first["seconds"]) / one_core / cores
        print(f"Slope between the first and the last: {slope:.2f} of all cores; "
              f"memory {last['megabytes'] / first['megabytes']:.2f} times.")  # fmt: skip
    print(json.dumps({"one_core": one_core, "cores": cores, "slope": slope, "sizes": results,
                      "load_average": os.getloadavg()[0]}))  # fmt: skip
    return 0


def reference_rate(pictures: pa.Array) -> float:
    """Pictures a second that one core decodes and predicts, in this process."""
    classifier = next(iter(load_classifiers(CHECKPOINT, None, "cpu").values()))
    contents = pictures[:REFERENCE_IMAGES].to_pylist()
    begin = time.perf_counter()
    for first in range(0, len(contents), BATCH):
        classifier.predict(np.stack([prepare(content).pixels for content in contents[first : first + BATCH]]))
    return len(contents) / (time.perf_counter() - begin)


def measure(folder: Path, pictures: pa.Array, rows: int) -> dict[str, Any]:
    """Scores `rows` pictures; seconds with the start, and the largest sum of the memory of all processes."""
    path = folder / "pictures.parquet"
    with parquet.ParquetWriter(path, pa.schema([("image", pa.binary())])) as writer:
        for first in range(0, rows, len(pictures)):
            writer.write_table(pa.table({"image": pictures[: min(len(pictures), rows - first)]}))
    begin = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "service.bulk", str(path), str(folder / "predictions")],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    most = 0
    while process.poll() is None:
        time.sleep(POLL_SECONDS)
        most = max(most, sum(map(proportional_bytes, process_tree(process.pid))))
    seconds = time.perf_counter() - begin
    found = dataset.dataset(folder / "predictions").count_rows()
    if process.returncode or found != rows:
        sys.exit(f"{found:,} of {rows:,} rows; exit code {process.returncode}.")
    return {"rows": rows, "seconds": round(seconds, 1), "rows_per_second": rows / seconds, "megabytes": most // 10**6}


if __name__ == "__main__":
    sys.exit(main())
