"""Admission control (load shedding): a limit of pictures in flight, and a limit of their waiting time.

Pictures beyond either limit are refused with 503, so that admitted ones are answered in time.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from heapq import heappop, heappush
from itertools import count

from service.metrics import Metrics

FULL_SECONDS = 0.1  # early retries are refused until the limit was not reached for so long


class Overloaded(Exception):
    """Too many pictures are in flight; one sentence for clients."""


class DeadlineExceeded(Exception):
    """A picture waited for too long; one sentence for clients."""


class Deadline:
    """The time, from now on, within which work on a picture must begin."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._begin = time.monotonic()

    def check(self) -> None:
        """Raises DeadlineExceeded if the time is over."""
        if self.remaining() < 0:
            raise self.exceeded()

    def remaining(self) -> float:
        """Seconds."""
        return self._begin + self.seconds - time.monotonic()

    def exceeded(self) -> DeadlineExceeded:
        waited = time.monotonic() - self._begin
        return DeadlineExceeded(
            f"The picture waited {waited:.1f} s, over the limit of {self.seconds:g} s; try again later."
        )


class Admission:
    """Counts the pictures in flight: uploaded and not answered yet. A batch takes one place for each picture."""

    def __init__(self, limit: int, metrics: Metrics) -> None:
        self.limit = limit
        self.in_flight = 0
        self._full_until = 0.0  # by time.monotonic
        self._metrics = metrics

    def check(self, pictures: int = 1, early_retry: bool = False) -> None:
        """Raises Overloaded unless this number of places is free.

        An early retry was sent before Retry-After was over, and was not read until then. It is refused while the limit
        is still reached at times: without that, `benchmarks.soak.overload` has a 99th percentile of 13 times that at
        capacity, and its limit is 3.
        """
        if self.in_flight + pictures > self.limit or (early_retry and time.monotonic() < self._full_until):
            raise Overloaded(f"Too many pictures are in flight, {self.in_flight} of {self.limit}; try again later.")

    def enter(self, pictures: int = 1) -> None:
        """Takes this number of places; `leave` must follow. Raises Overloaded."""
        self.check(pictures)
        self.in_flight += pictures
        if self.in_flight == self.limit:
            self._full_until = time.monotonic() + FULL_SECONDS
        self._metrics.set_in_flight(self.in_flight)

    def leave(self, pictures: int = 1) -> None:
        """Frees this number of places."""
        self.in_flight -= pictures
        self._metrics.set_in_flight(self.in_flight)


class DecodeQueue:
    """Admission control of large pictures by the time that decoding takes: one at a time, the cheapest first.

    So large pictures do not stand before smaller ones, and those that nobody could decode in time are refused.
    """

    def __init__(self) -> None:
        self._waiting: list[tuple[float, int, asyncio.Future[None]]] = []  # a heap: seconds, number, its turn
        self._numbers = count()
        self._running: float | None = None  # seconds of the picture whose turn it is

    @asynccontextmanager
    async def turn(self, seconds: float, deadline: Deadline) -> AsyncIterator[None]:
        """The time in which a picture that takes `seconds` is decoded.

        Raises Overloaded if it and those before it take longer than the deadline and it is not alone, and
        DeadlineExceeded if its turn does not come in time.
        """
        limit = deadline.seconds
        if self._running is not None:
            ahead = self._running + sum(
                other for other, _, turn in self._waiting if other <= seconds and not turn.done()
            )
            if ahead + seconds > limit:
                raise Overloaded(
                    f"Too many large pictures are in flight: decoding them takes {ahead + seconds:.1f} s, "
                    f"over the limit of {limit:g} s; try again later."
                )
            turn = asyncio.get_running_loop().create_future()
            heappush(self._waiting, (seconds, next(self._numbers), turn))
            try:
                await asyncio.wait_for(turn, deadline.remaining())
            except (asyncio.CancelledError, TimeoutError) as error:
                if turn.done() and not turn.cancelled():
                    self._next()
                if isinstance(error, TimeoutError):
                    raise deadline.exceeded() from error
                raise
        self._running = seconds
        try:
            yield
        finally:
            self._next()

    def _next(self) -> None:
        """Gives the turn to the cheapest picture that waits."""
        self._running = None
        while self._waiting:
            seconds, _, turn = heappop(self._waiting)
            if not turn.done():
                self._running = seconds
                turn.set_result(None)
                return
