"""10,000 idle connections, and slow or malformed clients: `python -m benchmarks.soak.idle_connections`."""

import argparse
import os
import random
import selectors
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

from benchmarks.soak.running import POLL_SECONDS, SHOE, Service, close, raise_file_limit, running
from service.server.memory import TRIM_SECONDS

REQUEST_SECONDS = 5.0  # SERVICE_REQUEST_SECONDS
ENDED_SECONDS = 3 * REQUEST_SECONDS  # from the last connection until the service has let go of all
ADDRESSES = 4  # 127.0.0.1 and so on, from which connections come, for each has 28,000 ports
RUDE = 200  # clients of each rude kind
ROUNDS = 3  # after the first, which warms up
MAX_GROWTH = 1.15
MAX_ANSWER_SECONDS = 1.0  # to others, even where thousands of deadlines come at once
SETTLE_SECONDS = 3 * TRIM_SECONDS  # until freed memory is back
SEED = 0
HEAD = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
SCRIPT = b"GET /static-offline-docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n"  # over a megabyte
WHOLE = HEAD + b"Content-Length: %d\r\n\r\n" % len(SHOE) + SHOE

BEGINNINGS: dict[str, Callable[[random.Random], bytes]] = {  # what clients of each kind send before they fall silent
    "nothing": lambda random: b"",
    "half of the headers": lambda random: WHOLE[: random.randrange(1, len(HEAD))],
    "half of the body": lambda random: WHOLE[: random.randrange(len(HEAD) + 30, len(WHOLE))],
    "less than announced": lambda random: HEAD + b"Content-Length: 1000000\r\n\r\n" + SHOE,
    "more than announced": lambda random: HEAD + b"Content-Length: 100\r\n\r\n" + SHOE,
    "endless headers": lambda random: HEAD + b"x: " + random.randbytes(70_000).hex().encode(),
    "many requests at once": lambda random: 300 * b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n",
    "requests, and reads no answer": lambda random: 2 * SCRIPT,
}


def dial(service: Service, number: int) -> socket.socket:
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # a client that does not read has a short buffer
    connection.bind((f"127.0.0.{1 + number % ADDRESSES}", 0))
    connection.connect(("127.0.0.1", service.port))
    connection.setblocking(False)
    return connection


def send(connection: socket.socket, content: bytes) -> None:
    with suppress(BlockingIOError, ConnectionError):
        connection.send(content)


def broken(service: Service, random: random.Random) -> Iterator[socket.socket]:
    """RUDE connections of each kind but the first, and as many that close in the middle of a request."""
    for number, beginning in enumerate(list(BEGINNINGS.values())[1:]):
        for _ in range(RUDE):
            connection = dial(service, number)
            send(connection, beginning(random))
            yield connection
    for number in range(RUDE):
        with dial(service, number) as leaving:
            send(leaving, WHOLE[: random.randrange(len(WHOLE))])


def trickle(connections: list[socket.socket], content: bytes) -> None:
    """Sends `content` on each connection."""
    for connection in connections:
        send(connection, content)


def one_round(service: Service, most: int, random: random.Random) -> tuple[float, float, int]:
    """Opens all connections; gives the slowest answer to others meanwhile, the time until the service had let go of
    all, both in seconds, and how many files it still has open.
    """
    before = service.open_files()
    slowest = 0.0
    held = [dial(service, number) for number in range(most)]
    held += broken(service, random)
    slow = [dial(service, number) for number in range(RUDE)]
    trickle(slow, WHOLE[:20])
    begin = time.monotonic()
    peak = service.open_files() - before
    with selectors.DefaultSelector() as selector:
        for connection in slow:
            selector.register(connection, selectors.EVENT_READ)
        while (open_files := service.open_files() - before) > 0 and time.monotonic() - begin < ENDED_SECONDS:
            ended = {key.fileobj for key, _ in selector.select(0)}
            trickle([connection for connection in slow if connection not in ended], b"x")
            asked = time.monotonic()
            assert service.predict().status_code == 200
            slowest = max(slowest, time.monotonic() - asked)
            time.sleep(POLL_SECONDS)
    seconds = time.monotonic() - begin
    print(
        f"{peak:,} connections held; the slowest answer to others took {1e3 * slowest:.0f} ms; after {seconds:.1f} s "
        f"{max(open_files, 0)} were left."
    )
    for connection in held + slow:
        connection.close()
    return slowest, seconds, max(open_files, 0)


def settled(service: Service, most: float) -> float:
    """Memory in MiB, once it is below `most` or has had its time to get there."""
    begin = time.monotonic()
    peak = megabytes = service.megabytes()
    while megabytes > most and time.monotonic() - begin < SETTLE_SECONDS:
        time.sleep(POLL_SECONDS)
        megabytes = service.megabytes()
    print(f"Memory: {peak:.0f} MiB, {megabytes:.0f} MiB {time.monotonic() - begin:.1f} s later.")
    return megabytes


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak.idle_connections", description=__doc__)
    parser.add_argument("--connections", type=int, default=10_000, help="(10000)")
    most = parser.parse_args().connections
    print(f"The load average is {os.getloadavg()[0]:.1f} before the start.")
    raise_file_limit()
    generator = random.Random(SEED)
    with running(SERVICE_REQUEST_SECONDS=str(REQUEST_SECONDS)) as service:
        for _ in range(100):
            service.predict()
        start = service.megabytes()
        print(f"Memory before: {start:.0f} MiB.")
        rounds, megabytes = [], []
        for _ in range(1 + ROUNDS):
            rounds.append(one_round(service, most, generator))
            megabytes.append(settled(service, MAX_GROWTH * start))
    slowest, seconds, left = (max(values) for values in zip(*rounds, strict=True))
    return close(
        "idle_connections",
        {
            "connections": most,
            "kinds": list(BEGINNINGS),
            "slowest_answer_ms": 1e3 * slowest,
            "ended_seconds": seconds,
            "left": left,
            "megabytes": [round(value, 1) for value in (start, *megabytes)],
        },
        {
            "every connection ends at its deadline": not left,
            f"others are answered within {MAX_ANSWER_SECONDS:g} s meanwhile": slowest <= MAX_ANSWER_SECONDS,
            "memory returns to within 15 %": max(megabytes) <= MAX_GROWTH * start,
        },
    )


if __name__ == "__main__":
    sys.exit(main())
