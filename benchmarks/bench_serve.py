"""Serving benchmark, this service beside LitServe, BentoML, Ray Serve and FastAPI:
`python -m benchmarks.bench_serve [--quick]`.

It needs Linux, two cores, wrk (`apt-get install wrk`) and the peers (`pip install -e .[train,dev,bench,cluster]`). A
peer that is not installed is skipped. Each contender serves on one core, and wrk runs on another. The contenders are
measured one after the other in several rounds; those that are not measured are paused. Every answer is checked: a wrong
or missing one fails its contender. The output is two tables in Markdown and one line of JSON. The exit code is 1 if a
contender failed or a limit in column "must" does not hold.
"""

import argparse
import json
import os
import platform
import shutil
import signal
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from statistics import median

import torch

from benchmarks import other_rows
from benchmarks.contenders import (
    CONTENDERS,
    QUICK,
    SHIPPED,
    Contender,
    RunningContender,
    start_contender,
    train_tutorial_net,
    version,
)
from benchmarks.load import LoadError
from benchmarks.processes import StartError, become_subreaper, kill_orphans
from benchmarks.rounds import Results, print_progress, run_rounds
from benchmarks.rows import TABLE_HEAD, Row, load_rows

CONNECTIONS = (1, 8, 32, 128)
SETTLE_SECONDS = 1  # unmeasured load before each measurement


def main() -> int:
    options = parse_options()
    if not shutil.which("wrk"):
        sys.exit("wrk is not installed: apt-get install wrk")
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        sys.exit("The server and the load generator need one core each; this machine has one core.")
    torch.set_num_threads(1)
    become_subreaper()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(130))
    results = Results()
    chosen = [contender for contender in CONTENDERS if contender.name in options.only]
    try:
        with tempfile.TemporaryDirectory(prefix="bench", ignore_cleanup_errors=True) as folder, ExitStack() as stack:
            weights = Path(folder, "tutorial.pt")
            train_tutorial_net(weights)
            runners = start_contenders(stack, results, chosen, weights, options.shipped, cores, Path(folder))
            run_rounds(results, runners, cores, options)
            rows = load_rows(results.loads)
            if "ours" in runners and "ours" not in results.failures:
                rows += measure_other_rows(results, runners["ours"], weights, cores, Path(folder), options)
    finally:
        kill_orphans()
    print_results(results, chosen, rows, options)
    return int(bool(results.failures) or any(row.verdict == "FAIL" for row in rows))


def parse_options() -> argparse.Namespace:
    names = [contender.name for contender in CONTENDERS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_serve", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="fewer contenders and shorter measurements: about a minute"
    )
    parser.add_argument(
        "--only", nargs="+", choices=names, metavar="NAME", help=f"contenders to measure, of {', '.join(names)}"
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="default: 5, with --quick 2")
    parser.add_argument("--seconds", type=int, metavar="N", help="of each measurement; default: 3, with --quick 1")
    parser.add_argument(
        "--memory-requests", type=int, metavar="N", help="of the memory growth test; default: 100000, with --quick 0"
    )
    parser.add_argument("--shipped", type=Path, default=SHIPPED, metavar="FILE", help="the shipped checkpoint")
    options = parser.parse_args()
    options.shipped = options.shipped.absolute()
    quick = options.quick
    options.only = options.only or (QUICK if quick else names)
    options.rounds = options.rounds or (2 if quick else 5)
    options.seconds = options.seconds or (1 if quick else 3)
    if options.memory_requests is None:
        options.memory_requests = 0 if quick else 100_000
    options.connections = (1, 32) if quick else CONNECTIONS
    options.settle = 0 if quick else SETTLE_SECONDS
    return options


def start_contenders(
    stack: ExitStack,
    results: Results,
    chosen: list[Contender],
    tutorial: Path,
    shipped: Path,
    cores: list[int],
    scratch: Path,
) -> dict[str, RunningContender]:
    """Starts the contenders, warms them up and pauses them; gives those that started, by name."""
    runners = {}
    for contender in chosen:
        if not version(contender):
            print_progress(f"{contender.name}: {contender.package} is not installed, skipped")
            continue
        weights = shipped if contender.shipped else tutorial
        if not weights.is_file():
            print_progress(f"{contender.name}: {weights} does not exist, skipped")
            continue
        try:
            runner = stack.enter_context(start_contender(contender, weights, cores, scratch))
        except (StartError, LoadError) as error:
            results.failures[contender.name] = str(error)
            print_progress(f"{contender.name}: {error}")
            continue
        runners[contender.name] = runner
        results.start_seconds[contender.name] = runner.server.start_seconds
        print_progress(f"{contender.name}: started in {runner.server.start_seconds:.1f} s")
    return runners


def measure_other_rows(
    results: Results,
    runner: RunningContender,
    weights: Path,
    cores: list[int],
    scratch: Path,
    options: argparse.Namespace,
) -> list[Row]:
    """The rows of `other_rows`, up to the first that fails."""
    rows = other_rows.start_and_memory(weights, cores, scratch, 1 if options.quick else 5)
    try:
        with runner.server.resumed():
            rows.append(other_rows.health_under_load(runner, cores, 2 * options.seconds))
            rows += other_rows.large_jpeg(runner, cores)
            rows.append(other_rows.batches(runner, cores, options.seconds))
            if options.memory_requests:
                rows.append(other_rows.memory_slope(runner, cores, options.memory_requests))
    except LoadError as error:
        results.failures["ours"] = str(error)
        print_progress(f"ours: {error}")
    return rows


def print_results(results: Results, chosen: list[Contender], rows: list[Row], options: argparse.Namespace) -> None:
    """Prints two tables in Markdown and one line of JSON."""
    figures = [
        {
            "contender": contender.name,
            "connections": connections,
            "per_second": median(load.per_second for load in loads.values()),
            "p50_ms": median(load.p50_ms for load in loads.values()),
            "p99_ms": median(load.p99_ms for load in loads.values()),
            "cpu_ms": median(load.cpu_ms for load in loads.values()),
            "resident_mib": results.resident_mib[contender.name],
            "start_seconds": results.start_seconds[contender.name],
            "generator_cores": max(load.generator_cores for load in loads.values()),
        }
        for contender in chosen
        for connections in options.connections
        if (loads := results.loads.get((contender.name, connections)))
    ]
    print("| contender | connections | requests/s | p50 ms | p99 ms | CPU ms a request | memory MiB | start s |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for figure in figures:
        print(
            "| {contender} | {connections} | {per_second:,.0f} | {p50_ms:.2f} | {p99_ms:.2f} | {cpu_ms:.3f} "
            "| {resident_mib:.0f} | {start_seconds:.1f} |".format(**figure)
        )
    print(*("", TABLE_HEAD, *(row.line() for row in rows), ""), sep="\n")
    for name, sentence in results.failures.items():
        print(f"{name} FAILED: {sentence}\n")
    print(
        json.dumps(
            {
                "machine": f"{cpu_name()}, {os.cpu_count()} cores",
                "python": platform.python_version(),
                "torch": torch.__version__,
                "versions": {contender.name: version(contender) for contender in chosen},
                "rounds": options.rounds,
                "seconds": options.seconds,
                "contenders": figures,
                "rows": [asdict(row) | {"verdict": row.verdict} for row in rows],
                "failures": results.failures,
            }
        )
    )


def cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    sys.exit(main())
