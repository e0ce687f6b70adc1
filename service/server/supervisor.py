"""uvicorn's supervisor of several workers, with our signals: workers get them at once, and their drain is awaited."""

import os
import signal
from contextlib import suppress
from socket import socket
from types import FrameType

import uvicorn

from service.server.drain import STOP
from service.server.uvicorn_api import Multiprocess


class Supervisor(Multiprocess):
    """SIGTERM drains the workers, SIGINT stops them without a drain, a second signal kills them.

    uvicorn's supervisor checks for signals twice a second, and not while it waits for an answer of a dead worker.
    """

    def __init__(self, config: uvicorn.Config, sockets: list[socket]) -> None:
        super().__init__(config, sockets)
        self.interrupted = False
        self._stopping: set[int] = set()  # process ids of workers that got a signal to stop
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.interrupted |= number == signal.SIGINT
        if self._stopping:
            for process in self.processes:
                process.process.kill()
        self.signal_queue.append(number)
        self.terminate_all()

    def terminate_all(self) -> None:
        for process in self.processes:
            if process.pid and process.pid not in self._stopping:
                self._stopping.add(process.pid)
                with suppress(ProcessLookupError):
                    os.kill(process.pid, STOP if self.interrupted else signal.SIGTERM)

    def keep_subprocess_alive(self) -> None:
        for process in self.processes:
            process.child_conn.close()  # the worker's end; while it is open here, a dead worker seems slow
        if not self._stopping:
            super().keep_subprocess_alive()

    def join_all(self) -> None:
        for listener in self.sockets:
            listener.close()  # the workers hold it too, until they stop listening
        for process in self.processes:
            process.process.join()
