"""The rounds of `bench_serve`: each measures every contender once at every number of connections."""

import argparse
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace

from benchmarks.contenders import RunningContender
from benchmarks.load import LoadError, NoAnswer
from benchmarks.rows import DEFAULT_CONNECTIONS, LoadResults

SCALING_RUNS = 5  # measurements a round; several, because how two workers share the connections is random


@dataclass
class Results:
    """The results so far."""

    loads: LoadResults = field(default_factory=dict)
    resident_mib: dict[str, float] = field(default_factory=dict)
    start_seconds: dict[str, float] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


def run_rounds(
    results: Results, runners: dict[str, RunningContender], cores: list[int], options: argparse.Namespace
) -> None:
    """Measures every contender at every number of connections in each round; the order rotates with the round."""
    names = list(runners)
    for number in range(options.rounds):
        for connections in options.connections:
            for name in names[number % len(names) :] + names[: number % len(names)]:
                if not runners[name].contender.scaling:
                    measure_turn(results, runners[name], number, connections, cores, options)
        for turn in range(SCALING_RUNS):
            for name in names:
                if runners[name].contender.scaling:
                    pair = SCALING_RUNS * number + turn
                    measure_turn(results, runners[name], pair, DEFAULT_CONNECTIONS, cores, options)
        print_progress(f"round {number + 1} of {options.rounds} finished")


def measure_turn(
    results: Results,
    runner: RunningContender,
    number: int,
    connections: int,
    cores: list[int],
    options: argparse.Namespace,
) -> None:
    """One measurement of one contender, with a check before and after; stored as round `number`."""
    name, server = runner.contender.name, runner.server
    if name in results.failures:
        return
    try:
        with server.resumed():
            runner.check()
            if options.settle:
                with suppress(NoAnswer):
                    runner.generate_load(connections, options.settle, cores)
            before = server.cpu_seconds()
            load = runner.generate_load(connections, options.seconds, cores)
            cpu_seconds = server.cpu_seconds() - before
            time.sleep(options.settle)  # else the check shares a batch with requests that wrk left unread
            runner.check()
    except NoAnswer as error:
        print_progress(f"{name}: {error}, not measured")
        return
    except LoadError as error:
        results.failures[name] = str(error)
        print_progress(f"{name}: {error}")
        return
    loads = results.loads.setdefault((name, connections), {})
    loads[number] = replace(load, cpu_ms=1e3 * cpu_seconds / load.requests)
    results.resident_mib[name] = server.resident_bytes() / 2**20


def print_progress(line: str) -> None:
    """Prints to standard error."""
    print(line, file=sys.stderr, flush=True)
