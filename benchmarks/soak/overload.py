"""Soak test: load shedding with four times as many clients as the service admits:
`python -m benchmarks.soak.overload`.
"""

import argparse
import asyncio
import os
import re
import sys
import time

import uvloop

from benchmarks.soak.client import FAILED, MAX_ANSWER_SECONDS, RequestStats, request
from benchmarks.soak.service_process import SHOE, Service, print_verdict, run_service

MAX_WAITING = 32
CAPACITY_SECONDS = 15.0
WARMUP_SECONDS = 3.0
RECOVERY_SECONDS = 1.0  # from the end of the overload until latency must be normal
OVERLOAD = 4  # times MAX_WAITING connections
MAX_P99_RATIO = 3.0  # overload over capacity
MAX_P50_RATIO = 1.5  # after the overload over capacity
MESSAGE = request(SHOE)
LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


class Client(asyncio.Protocol):
    """A connection that sends the next request when it has its answer.

    Simpler than `client.Connection`, because the generator must be faster than the service.
    """

    def __init__(self, stats: RequestStats, end: float) -> None:
        self.stats = stats
        self.end = end
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        self.send()

    def send(self) -> None:
        self.received = b""
        self.begin = time.perf_counter()
        self.transport.write(MESSAGE)

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, blank, content = self.received.partition(b"\r\n\r\n")
        if not blank or len(content) < int(LENGTH.search(head)[1]):  # type: ignore[index]
            return
        now = time.perf_counter()
        self.stats.add(int(head[9:12]), now - self.begin)
        if now < self.end:
            self.send()
        else:
            self.finished.set_result(None)
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.finished.done():
            self.stats.add(FAILED, time.perf_counter() - self.begin)
            self.stats.errors[repr(exc)] += 1
            self.finished.set_result(None)


async def generate_load(port: int, connections: int, seconds: float, stats: RequestStats) -> None:
    loop = asyncio.get_running_loop()
    end = time.perf_counter() + seconds
    clients = [
        (await loop.create_connection(lambda: Client(stats, end), "127.0.0.1", port))[1] for _ in range(connections)
    ]
    async with asyncio.timeout(seconds + MAX_ANSWER_SECONDS):
        await asyncio.gather(*(client.finished for client in clients))


def measure(service: Service, connections: int, seconds: float) -> RequestStats:
    stats = RequestStats()
    before = time.process_time()
    uvloop.run(generate_load(service.port, connections, seconds, stats))
    print(f"The load generator used {(time.process_time() - before) / seconds:.0%} of a core.")
    return stats


def describe(name: str, stats: RequestStats, seconds: float) -> str:
    return (
        f"{name}: {stats.count(200) / seconds:,.0f} answers a second, median {1e3 * stats.quantile(0.5):.1f} ms, "
        f"99th percentile {1e3 * stats.quantile(0.99):.1f} ms; statuses {stats.statuses()}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak.overload", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, metavar="N", help="of overload; default: 60")
    seconds = parser.parse_args().seconds
    print(f"The load average is {os.getloadavg()[0]:.1f} before the start.")
    with run_service(SERVICE_MAX_WAITING=str(MAX_WAITING)) as service:
        measure(service, MAX_WAITING, WARMUP_SECONDS)
        capacity = measure(service, MAX_WAITING, CAPACITY_SECONDS)
        print(describe(f"At capacity, {MAX_WAITING} connections", capacity, CAPACITY_SECONDS))
        before = service.megabytes()
        over = measure(service, OVERLOAD * MAX_WAITING, seconds)
        print(describe(f"Overloaded, {OVERLOAD * MAX_WAITING} connections", over, seconds))
        time.sleep(RECOVERY_SECONDS)
        after = measure(service, MAX_WAITING, WARMUP_SECONDS)
        print(describe(f"{RECOVERY_SECONDS:g} s later, {MAX_WAITING} connections", after, WARMUP_SECONDS))
        memory = service.megabytes()
    for error, count in over.errors.most_common(5):
        print(f"{count} times: {error}")
    ratio = over.quantile(0.99) / capacity.quantile(0.99)
    print(f"The 99th percentile of accepted requests was {ratio:.2f} times that at capacity.")
    print(
        f"Median time of a 503: {1e3 * over.quantile(0.5, 503):.1f} ms. "
        f"Memory: {before:.0f} MiB before, {memory:.0f} MiB after."
    )
    return print_verdict(
        "overload",
        {
            "capacity_per_second": capacity.count(200) / CAPACITY_SECONDS,
            "capacity_p99_ms": 1e3 * capacity.quantile(0.99),
            "overload_per_second": over.count(200) / seconds,
            "overload_p99_ms": 1e3 * over.quantile(0.99),
            "overload_statuses": over.statuses(),
            "ratio": ratio,
            "after_p50_ms": 1e3 * after.quantile(0.5),
        },
        {
            "no connection is reset": not over.count(FAILED),
            "every answer is 200 or 503": over.statuses().keys() <= {200, 503, FAILED},
            "some requests were answered 503": over.count(503) > 0,
            f"the 99th percentile of accepted requests stays within {MAX_P99_RATIO:g} times": ratio <= MAX_P99_RATIO,
            "a second later every answer is 200 and the median is normal": after.statuses().keys() == {200}
            and after.quantile(0.5) <= MAX_P50_RATIO * capacity.quantile(0.5),
        },
    )


if __name__ == "__main__":
    sys.exit(main())
