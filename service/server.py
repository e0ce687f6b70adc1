"""Runs the app under uvicorn: one process, or several that share the port."""

import logging
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import warnings
from contextlib import suppress
from math import ceil
from multiprocessing.process import BaseProcess
from pathlib import Path
from socket import socket
from types import FrameType

import uvicorn
from starlette.types import ASGIApp
from uvicorn.supervisors.multiprocess import Multiprocess

from service import logs, metrics
from service.app import create_app
from service.drain import FINISH
from service.protocol import PunctualProtocol
from service.settings import PREFIX, Settings, load_settings

INTERRUPTED = 130  # exit code, as a shell reports SIGINT
UVICORN_FAILED = 3  # exit code
HANGING_SECONDS = 60  # until a worker that does not answer its supervisor is replaced; it may have to start first
LISTENERS = 8  # handles on the listening socket: libuv accepts one connection by each, then does all else that waits
BACKLOG = 2048  # connections that the kernel keeps until they are accepted

logger = logging.getLogger(__name__)


def application() -> ASGIApp:
    """The app with its settings from the environment, as each worker makes it."""
    warnings.filterwarnings("ignore", module="PIL")  # each is kept, and an upload can cause 65,000 different ones
    metrics.forget_dead_workers()
    if supervisor := multiprocessing.parent_process():
        threading.Thread(target=end_with, args=(supervisor,), daemon=True).start()
    return create_app(load_settings())


def end_with(supervisor: BaseProcess) -> None:
    """Ends this worker once its supervisor is gone, however that came: nobody could end it, and it has the port."""
    supervisor.join()
    os.kill(os.getpid(), signal.SIGTERM)


def serve(settings: Settings, flags: dict[str, str]) -> int:
    """Serves until it is told to stop, and returns the exit code. `flags` reach the workers as environment."""
    settings = within_cores(settings, available_cores())
    shared = {"workers": str(settings.workers), "threads": str(settings.threads)}
    os.environ.update({PREFIX + name.upper(): value for name, value in (flags | shared).items()})
    config = uvicorn.Config(
        "service.server:application",
        factory=True,
        host=settings.host,
        port=settings.port,
        workers=settings.workers,
        http=PunctualProtocol,
        ws="none",
        log_config=logs.config(terminal=sys.stderr.isatty()),
        access_log=False,  # the middleware writes its own lines
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_worker_healthcheck=HANGING_SECONDS,
    )
    if not settings.api_key:
        logger.warning("SERVICE_API_KEY is not set: whoever reaches this port may ask.")
    try:
        return serve_alone(config) if settings.workers == 1 else serve_together(config)
    except SystemExit as error:
        if error.code == UVICORN_FAILED:  # to start, on a port that is taken for example; it has said why
            return 1
        raise


def serve_alone(config: uvicorn.Config) -> int:
    ended = {signal.SIGTERM: 0, signal.SIGINT: INTERRUPTED}
    for number, code in ended.items():  # uvicorn raises the signals again once it has shut down
        signal.signal(number, lambda *_, code=code: sys.exit(code))
    uvicorn.Server(config).run(listen(config))
    return 0


def listen(config: uvicorn.Config) -> list[socket]:
    """The listening socket, as often as a worker may accept at once; several workers take one each, and share."""
    bound = config.bind_socket()
    return [bound, *(bound.dup() for _ in range(LISTENERS - 1 if config.workers == 1 else 0))]


def serve_together(config: uvicorn.Config) -> int:
    """Several workers on one socket, each counting for itself in a folder that all share."""
    with tempfile.TemporaryDirectory(prefix="metrics-") as folder:
        os.environ[metrics.FOLDER] = folder
        supervisor = Supervisor(config, listen(config))
        supervisor.run()
    return INTERRUPTED if supervisor.interrupted else 0


class Supervisor(Multiprocess):
    """uvicorn's, which tells its workers of the end at once, waits for their drain, and ends them on a second signal.

    On SIGINT it spares them the drain. uvicorn's own looks for signals twice a second, and not while it waits for the
    sign of life of a worker that has died.
    """

    def __init__(self, config: uvicorn.Config, sockets: list[socket]) -> None:
        super().__init__(config, sockets)
        self.interrupted = False
        self._told: set[int | None] = set()  # workers, by their pids
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._tell)

    def _tell(self, number: int, frame: FrameType | None) -> None:
        self.interrupted |= number == signal.SIGINT
        if self._told:
            for process in self.processes:
                process.process.kill()
        self.signal_queue.append(number)
        self.terminate_all()

    def terminate_all(self) -> None:
        for process in self.processes:
            if process.pid and process.pid not in self._told:
                self._told.add(process.pid)
                with suppress(ProcessLookupError):
                    os.kill(process.pid, FINISH if self.interrupted else signal.SIGTERM)

    def keep_subprocess_alive(self) -> None:
        for process in self.processes:
            process.child_conn.close()  # the worker's end: while it is open here, a dead worker only seems slow
        if not self._told:
            super().keep_subprocess_alive()

    def join_all(self) -> None:
        for listener in self.sockets:
            listener.close()  # the workers have it, too, until they stop to listen
        for process in self.processes:
            process.process.join()


def within_cores(settings: Settings, cores: int) -> Settings:
    """The settings with no more workers than cores, and no more threads in all; says so where that changes them."""
    workers = min(settings.workers, cores)
    threads = min(settings.threads, cores // workers)
    if (workers, threads) != (settings.workers, settings.threads):
        logger.warning(
            "%d workers of %d threads would only take turns on %d cores; starting %d of %d.",
            settings.workers, settings.threads, cores, workers, threads,
        )  # fmt: skip
    return settings.model_copy(update={"workers": workers, "threads": threads})


def available_cores(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """The cores that this process may use: those it may run on, at most its container's share of time, rounded up."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for files in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):  # of version 2, of version 1
        with suppress(OSError, ValueError):  # "max" is no number, and no limit
            quota, period = map(int, " ".join((cgroup / file).read_text() for file in files).split())
            if quota > 0:
                cores = min(cores, ceil(quota / period))
    return cores
