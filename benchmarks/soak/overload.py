"""Overload: four times as many clients as the service has places for: `python -m benchmarks.soak.overload`."""

import argparse
import asyncio
import os
import re
import sys
import time

import uvloop

from benchmarks.soak.client import FAILED, MAX_ANSWER_SECONDS, Tally, request
from benchmarks.soak.running import SHOE, Service, close, running

MAX_WAITING = 32
CAPACITY_SECONDS = 15.0
WARM_SECONDS = 3.0
AFTER_SECONDS = 1.0  # in which all has to be as before
OVERLOAD = 4
MAX_RATIO = 3.0  # of the 99th percentiles
NORMAL_RATIO = 1.5  # of the median after the overload and at capacity
MESSAGE = request(SHOE)
LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


class Client(asyncio.Protocol):
    """One connection that asks again as soon as it has its answer; lean, for the generator must outrun the service."""

    def __init__(self, tally: Tally, end: float) -> None:
        self.tally = tally
        self.end = end
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        self.ask()

    def ask(self) -> None:
        self.received = b""
        self.begin = time.perf_counter()
        self.transport.write(MESSAGE)

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, blank, content = self.received.partition(b"\r\n\r\n")
        if not blank or len(content) < int(LENGTH.search(head)[1]):  # type: ignore[index]
            return
        now = time.perf_counter()
        self.tally.add(int(head[9:12]), now - self.begin)
        if now < self.end:
            self.ask()
        else:
            self.over.set_result(None)
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.over.done():
            self.tally.add(FAILED, time.perf_counter() - self.begin)
            self.tally.errors[repr(exc)] += 1
            self.over.set_result(None)


async def press(port: int, connections: int, seconds: float, tally: Tally) -> None:
    loop = asyncio.get_running_loop()
    end = time.perf_counter() + seconds
    clients = [
        (await loop.create_connection(lambda: Client(tally, end), "127.0.0.1", port))[1] for _ in range(connections)
    ]
    async with asyncio.timeout(seconds + MAX_ANSWER_SECONDS):
        await asyncio.gather(*(client.over for client in clients))


def pressed(service: Service, connections: int, seconds: float) -> Tally:
    tally = Tally()
    before = time.process_time()
    uvloop.run(press(service.port, connections, seconds, tally))
    print(f"(The generator was busy for {(time.process_time() - before) / seconds:.0%} of the time.)")
    return tally


def describe(name: str, tally: Tally, seconds: float) -> str:
    return (
        f"{name}: {tally.count(200) / seconds:,.0f} answers a second, median {1e3 * tally.percentile(0.5):.1f} ms, "
        f"99th percentile {1e3 * tally.percentile(0.99):.1f} ms; statuses {tally.statuses()}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak.overload", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="of overload (60)")
    seconds = parser.parse_args().seconds
    print(f"The load average is {os.getloadavg()[0]:.1f} before the start.")
    with running(SERVICE_MAX_WAITING=str(MAX_WAITING)) as service:
        pressed(service, MAX_WAITING, WARM_SECONDS)
        capacity = pressed(service, MAX_WAITING, CAPACITY_SECONDS)
        print(describe(f"At capacity, {MAX_WAITING} connections", capacity, CAPACITY_SECONDS))
        before = service.megabytes()
        over = pressed(service, OVERLOAD * MAX_WAITING, seconds)
        print(describe(f"Overloaded, {OVERLOAD * MAX_WAITING} connections", over, seconds))
        time.sleep(AFTER_SECONDS)
        after = pressed(service, MAX_WAITING, WARM_SECONDS)
        print(describe(f"{AFTER_SECONDS:g} s later, {MAX_WAITING} connections", after, WARM_SECONDS))
        memory = service.megabytes()
    for error, count in over.errors.most_common(5):
        print(f"{count} times: {error}")
    ratio = over.percentile(0.99) / capacity.percentile(0.99)
    print(f"The 99th percentile of accepted requests was {ratio:.2f} times that at capacity.")
    print(
        f"Refusals took {1e3 * over.percentile(0.5, 503):.1f} ms (median). Memory: {before:.0f} MiB, {memory:.0f} MiB."
    )
    return close(
        "overload",
        {
            "capacity_per_second": capacity.count(200) / CAPACITY_SECONDS,
            "capacity_p99_ms": 1e3 * capacity.percentile(0.99),
            "overload_per_second": over.count(200) / seconds,
            "overload_p99_ms": 1e3 * over.percentile(0.99),
            "overload_statuses": over.statuses(),
            "ratio": ratio,
            "after_p50_ms": 1e3 * after.percentile(0.5),
        },
        {
            "no connection is reset": not over.count(FAILED),
            "every answer is 200 or 503": over.statuses().keys() <= {200, 503, FAILED},
            "the overload was one": over.count(503) > 0,
            f"the 99th percentile of accepted requests stays within {MAX_RATIO:g} times": ratio <= MAX_RATIO,
            "a second later all is as before": after.statuses().keys() == {200}
            and after.percentile(0.5) <= NORMAL_RATIO * capacity.percentile(0.5),
        },
    )


if __name__ == "__main__":
    sys.exit(main())
