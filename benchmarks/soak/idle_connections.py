"""Soak test: 10,000 idle connections, slow clients (slowloris) and malformed requests:
`python -m benchmarks.soak.idle_connections`.
"""

import argparse
import os
import random
import selectors
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

from benchmarks.soak.service_process import (
    POLL_SECONDS,
    SHOE,
    Service,
    print_verdict,
    raise_file_limit,
    run_service,
)
from service.server.memory import TRIM_SECONDS

REQUEST_SECONDS = 5.0  # SERVICE_REQUEST_SECONDS
KEEP_ALIVE_SECONDS = 5  # SERVICE_KEEP_ALIVE_SECONDS
CLOSE_SECONDS = 3 * REQUEST_SECONDS  # within which the service must close all connections
ADDRESSES = 4  # client addresses from 127.0.0.1 on; each has 28,000 ports
HOSTILE = 200  # clients of each hostile kind
ROUNDS = 3  # after one warm-up round
MAX_GROWTH = 1.15
MAX_ANSWER_SECONDS = 1.0  # to a normal client, even while thousands of deadlines expire at once
MEMORY_SECONDS = 3 * TRIM_SECONDS  # within which freed memory must return to the system
SEED = 0
HEAD = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
LARGE_FILE = b"GET /static-offline-docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n"  # over a megabyte
VALID = HEAD + b"Content-Length: %d\r\n\r\n" % len(SHOE) + SHOE

CLIENTS: dict[str, Callable[[random.Random], bytes]] = {  # kind of client -> bytes that it sends before it stops
    "nothing": lambda random: b"",
    "one request, and no other": lambda random: VALID,
    "half of the headers": lambda random: VALID[: random.randrange(1, len(HEAD))],
    "half of the body": lambda random: VALID[: random.randrange(len(HEAD) + 30, len(VALID))],
    "body shorter than Content-Length": lambda random: HEAD + b"Content-Length: 1000000\r\n\r\n" + SHOE,
    "body longer than Content-Length": lambda random: HEAD + b"Content-Length: 100\r\n\r\n" + SHOE,
    "endless headers": lambda random: HEAD + b"x: " + random.randbytes(70_000).hex().encode(),
    "300 pipelined requests": lambda random: 300 * b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n",
    "requests large answers and reads none": lambda random: 2 * LARGE_FILE,
}


def connect(service: Service, number: int) -> socket.socket:
    connection = socket.socket()
    # A small receive buffer, so that answers to a client that does not read stay in the service.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.bind((f"127.0.0.{1 + number % ADDRESSES}", 0))
    connection.connect(("127.0.0.1", service.port))
    connection.setblocking(False)
    return connection


def send(connection: socket.socket, content: bytes) -> None:
    with suppress(BlockingIOError, ConnectionError):
        connection.send(content)


def open_hostile(service: Service, random: random.Random) -> Iterator[socket.socket]:
    """Opens HOSTILE connections of each kind but the idle one, and HOSTILE that close early."""
    for number, first_bytes in enumerate(list(CLIENTS.values())[1:]):
        for _ in range(HOSTILE):
            connection = connect(service, number)
            send(connection, first_bytes(random))
            yield connection
    for number in range(HOSTILE):
        with connect(service, number) as leaving:
            send(leaving, VALID[: random.randrange(len(VALID))])


def send_to_all(connections: list[socket.socket], content: bytes) -> None:
    for connection in connections:
        send(connection, content)


def run_round(service: Service, count: int, random: random.Random) -> tuple[float, float, int]:
    """Opens `count` idle connections and all others, and waits until the service has closed them.

    Gives the time of the slowest answer to a normal client in the meantime and the time until all were closed, both in
    seconds, and the number of connections that are still open.
    """
    before = service.open_files()
    slowest = 0.0
    connections = [connect(service, number) for number in range(count)]
    connections += open_hostile(service, random)
    slow = [connect(service, number) for number in range(HOSTILE)]
    send_to_all(slow, VALID[:20])
    begin = time.monotonic()
    peak = service.open_files() - before
    with selectors.DefaultSelector() as selector:
        for connection in slow:
            selector.register(connection, selectors.EVENT_READ)
        while (open_files := service.open_files() - before) > 0 and time.monotonic() - begin < CLOSE_SECONDS:
            closed = {key.fileobj for key, _ in selector.select(0)}
            send_to_all([connection for connection in slow if connection not in closed], b"x")
            sent = time.monotonic()
            assert service.predict().status_code == 200
            slowest = max(slowest, time.monotonic() - sent)
            time.sleep(POLL_SECONDS)
    seconds = time.monotonic() - begin
    print(
        f"{peak:,} connections open; the slowest answer to a normal client took {1e3 * slowest:.0f} ms; "
        f"after {seconds:.1f} s {max(open_files, 0)} connections were still open."
    )
    for connection in connections + slow:
        connection.close()
    return slowest, seconds, max(open_files, 0)


def wait_for_memory(service: Service, maximum: float) -> float:
    """Waits until memory is at most `maximum`, or for MEMORY_SECONDS; gives the memory. Both in MiB."""
    begin = time.monotonic()
    peak = megabytes = service.megabytes()
    while megabytes > maximum and time.monotonic() - begin < MEMORY_SECONDS:
        time.sleep(POLL_SECONDS)
        megabytes = service.megabytes()
    print(f"Memory: {peak:.0f} MiB, and {megabytes:.0f} MiB after {time.monotonic() - begin:.1f} s.")
    return megabytes


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak.idle_connections", description=__doc__)
    parser.add_argument("--connections", type=int, default=10_000, metavar="N", help="default: 10000")
    count = parser.parse_args().connections
    print(f"The load average is {os.getloadavg()[0]:.1f} before the start.")
    raise_file_limit()
    generator = random.Random(SEED)
    with run_service(
        SERVICE_REQUEST_SECONDS=str(REQUEST_SECONDS), SERVICE_KEEP_ALIVE_SECONDS=str(KEEP_ALIVE_SECONDS)
    ) as service:
        for _ in range(100):
            service.predict()
        start = service.megabytes()
        print(f"Memory before: {start:.0f} MiB.")
        rounds, megabytes = [], []
        for _ in range(1 + ROUNDS):
            rounds.append(run_round(service, count, generator))
            megabytes.append(wait_for_memory(service, MAX_GROWTH * start))
    slowest, seconds, still_open = (max(values) for values in zip(*rounds, strict=True))
    return print_verdict(
        "idle_connections",
        {
            "connections": count,
            "kinds": list(CLIENTS),
            "slowest_answer_ms": 1e3 * slowest,
            "close_seconds": seconds,
            "still_open": still_open,
            "megabytes": [round(value, 1) for value in (start, *megabytes)],
        },
        {
            "every connection ends at its deadline": not still_open,
            f"normal clients are answered within {MAX_ANSWER_SECONDS:g} s": slowest <= MAX_ANSWER_SECONDS,
            "memory returns to within 15 %": max(megabytes) <= MAX_GROWTH * start,
        },
    )


if __name__ == "__main__":
    sys.exit(main())
