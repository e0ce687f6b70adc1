"""Graceful shutdown: on SIGTERM the worker drains, so that a balancer takes it out, and stops afterwards.

While it drains, /health is 503 and every other request is answered, with `Connection: close`.
"""

import asyncio
import logging
import signal
import threading
from types import FrameType
from typing import Any

STOP = signal.SIGUSR1 if hasattr(signal, "SIGUSR1") else signal.SIGINT  # the supervisor's: stop without a drain

logger = logging.getLogger(__name__)


class Drain:
    """The signals of this process. SIGTERM drains for `seconds`, then finishes what was accepted.

    SIGINT skips the drain; a second signal stops at once.
    """

    def __init__(self) -> None:
        self.active = False
        self._signals = 0

    def listen(self, seconds: float, supervised: bool) -> None:
        """Handles the signals from now on, in front of uvicorn's handler. Call it in the event loop."""
        if threading.current_thread() is not threading.main_thread():
            return  # signals only arrive in the main thread
        self._loop = asyncio.get_running_loop()
        self._seconds = seconds
        self._uvicorn: Any = signal.getsignal(signal.SIGTERM)
        signal.signal(signal.SIGTERM, self._handle)
        # Ctrl-C reaches the whole group of processes; with several workers the supervisor decides.
        signal.signal(signal.SIGINT, signal.SIG_IGN if supervised else self._handle)
        if supervised:
            signal.signal(STOP, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._signals += 1
        self.active = True
        if self._signals > 1:
            for each in (signal.SIGINT, signal.SIGINT, number):  # uvicorn stops at once on the second SIGINT
                self._uvicorn(each, frame)  # and the last signal decides the exit code
        elif number == signal.SIGTERM and self._seconds:
            self._loop.call_soon_threadsafe(self._begin)
        else:
            self._uvicorn(number, frame)

    def _begin(self) -> None:
        logger.info("Draining for %g s: /health is 503, pictures are still answered.", self._seconds)
        self._loop.call_later(self._seconds, self._uvicorn, signal.SIGTERM, None)


DRAIN = Drain()  # a process has one set of signal handlers
