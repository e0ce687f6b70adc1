"""Admission control (load shedding): a limit of pictures in flight, and a limit of their waiting time.

Pictures beyond either limit are refused with 503, so that admitted ones are answered in time.
"""

import time

from service.metrics import Metrics

FULL_SECONDS = 0.1  # early retries are refused until the limit was not reached for so long


class Overloaded(Exception):
    """Too many pictures are in flight; one sentence for clients."""


class DeadlineExceeded(Exception):
    """A picture waited for too long; one sentence for clients."""


class Deadline:
    """The time, from now on, within which work on a picture must begin."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._begin = time.monotonic()

    def check(self) -> None:
        """Raises DeadlineExceeded if the time is over."""
        waited = time.monotonic() - self._begin
        if waited > self._seconds:
            raise DeadlineExceeded(
                f"The picture waited {waited:.1f} s, over the limit of {self._seconds:g} s; try again later."
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
