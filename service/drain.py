"""How a worker ends: on SIGTERM it first says so and serves on, so that a balancer takes it out; then it stops."""

import asyncio
import logging
import signal
import threading
from types import FrameType
from typing import Any

FINISH = signal.SIGUSR1 if hasattr(signal, "SIGUSR1") else signal.SIGINT  # what the supervisor sends instead of SIGINT

logger = logging.getLogger(__name__)


class Drain:
    """Draining or not, by the signals that this process gets.

    SIGTERM drains for `seconds`, then finishes what was accepted; SIGINT finishes that alone; a second signal, nothing.
    """

    def __init__(self, seconds: float, supervised: bool = False) -> None:
        self.seconds = seconds
        self.supervised = supervised
        self.active = False
        self._told = 0

    def listen(self) -> None:
        """Takes the signals over from uvicorn, to which they are handed on in time."""
        if threading.current_thread() is not threading.main_thread():
            return  # only there signals arrive; the process has its own ways
        self._loop = asyncio.get_running_loop()
        self._uvicorn: Any = signal.getsignal(signal.SIGTERM)
        signal.signal(signal.SIGTERM, self._tell)
        # Ctrl-C reaches a whole group of processes; of several, the supervisor alone decides.
        signal.signal(signal.SIGINT, signal.SIG_IGN if self.supervised else self._tell)
        if self.supervised:
            signal.signal(FINISH, self._tell)

    def _tell(self, number: int, frame: FrameType | None) -> None:
        self._told += 1
        self.active = True
        if self._told > 1:
            for each in (signal.SIGINT, signal.SIGINT, number):  # to uvicorn the second SIGINT means "at once"
                self._uvicorn(each, frame)  # and the last of all decides the exit code
        elif number == signal.SIGTERM and self.seconds:
            self._loop.call_soon_threadsafe(self._drain)
        else:
            self._uvicorn(number, frame)

    def _drain(self) -> None:
        logger.info("Draining for %g s: /health is 503, pictures are still answered.", self.seconds)
        self._loop.call_later(self.seconds, self._uvicorn, signal.SIGTERM, None)
