"""Speed of the service beside other ways to serve: `python -m benchmarks.bench_serve [--quick]`.

Needs Linux, two cores, wrk (`apt-get install wrk`) and the peers: `pip install -e .[train,dev,bench,cluster]`, in an
environment of its own if you like: a peer that is not installed is left out. Every contender serves on one core,
pinned, and wrk sends requests from another; they take turns over rounds, and the others are paused meanwhile. Every
answer is checked; one that is wrong or missing fails its contender. A table for people, then one line of JSON. Exit
code 1 if a contender failed or a "must" does not hold.
"""

import argparse
import json
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median

import torch

from benchmarks import besides
from benchmarks.contenders import CONTENDERS, QUICK, SHIPPED, Contender, Running, running, train_net, version
from benchmarks.load import LoadError, NoAnswer
from benchmarks.processes import StartError, adopt_orphans, end_orphans
from benchmarks.rows import HEAD, LEVEL, Loads, Row, table

LEVELS = (1, 8, 32, 128)  # connections
SCALING_TURNS = 5  # a round; the split of the connections between two workers varies
SETTLE_SECONDS = 1  # at a new number of connections, before it is measured


@dataclass
class Measurements:
    """The results so far."""

    loads: Loads = field(default_factory=dict)
    resident_mib: dict[str, float] = field(default_factory=dict)
    start_seconds: dict[str, float] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


def main() -> int:
    options = parse()
    if not shutil.which("wrk"):
        sys.exit("wrk is not installed: apt-get install wrk")
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        sys.exit("The server and the load need a core each; this machine has one.")
    torch.set_num_threads(1)
    adopt_orphans()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(130))
    measured = Measurements()
    chosen = [contender for contender in CONTENDERS if contender.name in options.only]
    try:
        with tempfile.TemporaryDirectory(prefix="bench", ignore_cleanup_errors=True) as folder, ExitStack() as stack:
            weights = Path(folder, "tutorial.pt")
            train_net(weights)
            runners = start(stack, measured, chosen, weights, options.shipped, cores, Path(folder))
            rounds(measured, runners, cores, options)
            rows = table(measured.loads)
            if "ours" in runners and "ours" not in measured.failures:
                rows += measure_besides(measured, runners["ours"], weights, cores, Path(folder), options)
    finally:
        end_orphans()
    print_results(measured, chosen, rows, options)
    return int(bool(measured.failures) or any(row.verdict == "FAIL" for row in rows))


def parse() -> argparse.Namespace:
    names = [contender.name for contender in CONTENDERS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_serve", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer contenders, rounds and seconds: about a minute")
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help=f"of {', '.join(names)}")
    parser.add_argument("--rounds", type=int, help="turns of each contender (5; quick 2)")
    parser.add_argument("--seconds", type=int, help="of one turn at one number of connections (3; quick 1)")
    parser.add_argument("--memory-requests", type=int, help="over which memory must not grow (100000; quick 0)")
    parser.add_argument("--shipped", type=Path, default=SHIPPED, metavar="FILE", help="the shipped checkpoint")
    options = parser.parse_args()
    options.shipped = options.shipped.absolute()
    quick = options.quick
    options.only = options.only or (QUICK if quick else names)
    options.rounds = options.rounds or (2 if quick else 5)
    options.seconds = options.seconds or (1 if quick else 3)
    if options.memory_requests is None:
        options.memory_requests = 0 if quick else 100_000
    options.levels = (1, 32) if quick else LEVELS
    options.settle = 0 if quick else SETTLE_SECONDS
    return options


def start(
    stack: ExitStack,
    measured: Measurements,
    chosen: list[Contender],
    tutorial: Path,
    shipped: Path,
    cores: list[int],
    scratch: Path,
) -> dict[str, Running]:
    """All contenders that come up, warm and paused."""
    runners = {}
    for contender in chosen:
        if not version(contender):
            report(f"{contender.name}: {contender.package} is not installed, left out")
            continue
        weights = shipped if contender.shipped else tutorial
        if not weights.is_file():
            report(f"{contender.name}: {weights} does not exist, left out")
            continue
        try:
            runner = stack.enter_context(running(contender, weights, cores, scratch))
        except (StartError, LoadError) as error:
            measured.failures[contender.name] = str(error)
            report(f"{contender.name}: {error}")
            continue
        runners[contender.name] = runner
        measured.start_seconds[contender.name] = runner.server.start_seconds
        report(f"{contender.name}: up after {runner.server.start_seconds:.1f} s")
    return runners


def rounds(measured: Measurements, runners: dict[str, Running], cores: list[int], options: argparse.Namespace) -> None:
    """Each contender's turn at each number of connections, round by round; another one begins each round."""
    names = list(runners)
    for number in range(options.rounds):
        for level in options.levels:
            for name in names[number % len(names) :] + names[: number % len(names)]:
                if not runners[name].contender.scaling:
                    take_turn(measured, runners[name], number, level, cores, options.seconds, options.settle)
        for turn in range(SCALING_TURNS):
            for name in names:
                if runners[name].contender.scaling:
                    number_of_pair = SCALING_TURNS * number + turn
                    take_turn(measured, runners[name], number_of_pair, LEVEL, cores, options.seconds, options.settle)
        report(f"round {number + 1} of {options.rounds} done")


def take_turn(
    measured: Measurements, runner: Running, number: int, level: int, cores: list[int], seconds: int, settle: int
) -> None:
    name, server = runner.contender.name, runner.server
    if name in measured.failures:
        return
    try:
        with server.turn():
            runner.check()
            if settle:
                with suppress(NoAnswer):
                    runner.press(level, settle, cores)
            before = server.cpu_seconds()
            found = runner.press(level, seconds, cores)
            spent = server.cpu_seconds() - before
            time.sleep(settle)  # else the check shares a batch with the last requests of the load
            runner.check()
    except NoAnswer as error:
        report(f"{name}: {error}, not measured")
        return
    except LoadError as error:
        measured.failures[name] = str(error)
        report(f"{name}: {error}")
        return
    measured.loads.setdefault((name, level), {})[number] = replace(found, cpu_ms=1e3 * spent / found.requests)
    measured.resident_mib[name] = server.resident_bytes() / 2**20


def measure_besides(
    measured: Measurements, runner: Running, weights: Path, cores: list[int], scratch: Path, options: argparse.Namespace
) -> list[Row]:
    """The rows of `besides`. If one fails, the rows before it are returned."""
    rows = besides.start_and_memory(weights, cores, scratch, 1 if options.quick else 5)
    try:
        with runner.server.turn():
            rows.append(besides.health_under_load(runner, cores, 2 * options.seconds))
            rows += besides.large_jpeg(runner, cores)
            rows.append(besides.batches(runner, cores, options.seconds))
            if options.memory_requests:
                rows.append(besides.memory_slope(runner, cores, options.memory_requests))
    except LoadError as error:
        measured.failures["ours"] = str(error)
        report(f"ours: {error}")
    return rows


def print_results(
    measured: Measurements, chosen: list[Contender], rows: list[Row], options: argparse.Namespace
) -> None:
    """Two tables for people, then one line of JSON."""
    figures = [
        {
            "contender": contender.name,
            "connections": level,
            "per_second": median(load.per_second for load in loads.values()),
            "p50_ms": median(load.p50_ms for load in loads.values()),
            "p99_ms": median(load.p99_ms for load in loads.values()),
            "cpu_ms": median(load.cpu_ms for load in loads.values()),
            "resident_mib": measured.resident_mib[contender.name],
            "start_seconds": measured.start_seconds[contender.name],
            "generator_cores": max(load.generator_cores for load in loads.values()),
        }
        for contender in chosen
        for level in options.levels
        if (loads := measured.loads.get((contender.name, level)))
    ]
    print("| contender | connections | requests/s | p50 ms | p99 ms | CPU ms a request | memory MiB | start s |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for figure in figures:
        print(
            "| {contender} | {connections} | {per_second:,.0f} | {p50_ms:.2f} | {p99_ms:.2f} | {cpu_ms:.3f} "
            "| {resident_mib:.0f} | {start_seconds:.1f} |".format(**figure)
        )
    print(*("", HEAD, *(row.line() for row in rows), ""), sep="\n")
    for name, sentence in measured.failures.items():
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
                "failures": measured.failures,
            }
        )
    )


def cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def report(line: str) -> None:
    """Progress, on standard error."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
