"""Runs the app under uvicorn: one process, or several workers that share the port."""

import logging
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import warnings
from contextlib import suppress
from functools import partial
from math import ceil, inf
from multiprocessing.process import BaseProcess
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from service import logs, metrics
from service.app import create_app
from service.server.drain import DRAIN
from service.server.listen import bind
from service.server.memory import start_trimming
from service.server.protocol import DeadlineProtocol
from service.server.supervisor import Supervisor
from service.settings import PREFIX, Settings, load_settings

INTERRUPTED = 130  # exit code, as a shell reports SIGINT
UVICORN_FAILED = 3  # exit code
HANGING_SECONDS = 60  # until a worker that does not answer its supervisor is replaced; longer than a start takes
# uvloop accepts one connection by each handle in a turn of the event loop. With one handle, a new connection waits 8 s
# beside 10,000 others in `benchmarks.soak.idle_connections`, whose limit is 1 s.
LISTENERS = 8
OTHER_FILES = 100  # that a process has open besides its connections
BACKLOG = 2048  # connections that the kernel keeps until they are accepted

logger = logging.getLogger(__name__)


def application() -> ASGIApp:
    """The app as a worker makes it, in its event loop, with its settings from the environment."""
    settings = load_settings()
    warnings.filterwarnings(
        "ignore", module="PIL"
    )  # Python keeps each warning, and an upload can cause 65,000 different ones
    metrics.forget_dead_workers()
    if supervisor := multiprocessing.parent_process():
        threading.Thread(target=stop_with, args=(supervisor,), daemon=True).start()
    DRAIN.listen(settings.drain_seconds, supervised=supervisor is not None)
    start_trimming()
    return create_app(settings)


def stop_with(supervisor: BaseProcess) -> None:
    """Stops this worker when its supervisor has ended; otherwise it would keep the port."""
    supervisor.join()
    os.kill(os.getpid(), signal.SIGTERM)


def serve(settings: Settings, flags: dict[str, str]) -> int:
    """Serves until a signal, and returns the exit code. `flags` reach the workers through the environment."""
    settings = within_cores(settings, available_cores())
    shared = {"workers": str(settings.workers), "threads": str(settings.threads)}
    os.environ.update({PREFIX + name.upper(): value for name, value in (flags | shared).items()})
    config = uvicorn.Config(
        "service.server.run:application",
        factory=True,
        host=settings.host,
        port=settings.port,
        workers=settings.workers,
        http=partial(DeadlineProtocol, settings=settings, max_connections=raise_file_limit()),  # type: ignore[arg-type]
        ws="none",
        log_config=logs.config(terminal=sys.stderr.isatty()),
        access_log=False,  # the app's middleware writes the access log
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_worker_healthcheck=HANGING_SECONDS,
        timeout_graceful_shutdown=ceil(settings.request_seconds + settings.max_wait_seconds) + 1,  # for slow uploads
    )
    if not settings.api_key:
        logger.warning("SERVICE_API_KEY is not set: any client that reaches this port is answered.")
    try:
        return serve_alone(config) if settings.workers == 1 else serve_together(config)
    except SystemExit as error:
        if error.code == UVICORN_FAILED:  # to start, on a port in use for example; uvicorn has logged the reason
            return 1
        raise


def serve_alone(config: uvicorn.Config) -> int:
    """One process. Returns its exit code."""
    exit_codes = {signal.SIGTERM: 0, signal.SIGINT: INTERRUPTED}
    for number, code in exit_codes.items():  # uvicorn raises the signal again once it has shut down
        signal.signal(number, lambda *_, code=code: sys.exit(code))
    bound = bind(config.host, config.port)
    uvicorn.Server(config).run([bound, *(bound.dup() for _ in range(LISTENERS - 1))])
    return 0


def serve_together(config: uvicorn.Config) -> int:
    """Several workers on one socket. Their metrics are files in a folder that all share. Returns the exit code."""
    with tempfile.TemporaryDirectory(prefix="metrics-") as folder:
        os.environ[metrics.FOLDER] = folder
        supervisor = Supervisor(config, [bind(config.host, config.port)])
        supervisor.run()
    return INTERRUPTED if supervisor.interrupted else 0


def raise_file_limit() -> float:
    """Raises the limit of open files as far as this process may; gives the connections that it leaves room for."""
    try:
        import resource
    except ImportError:  # Windows
        return inf
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return inf if hard == resource.RLIM_INFINITY else hard - min(OTHER_FILES, hard // 2)


def within_cores(settings: Settings, cores: int) -> Settings:
    """The settings with at most one worker a core and one thread a core in all; a reduction is logged."""
    workers = min(settings.workers, cores)
    threads = min(settings.threads, cores // workers)
    if (workers, threads) != (settings.workers, settings.threads):
        logger.warning(
            "%d workers with %d threads each would share %d cores; starting %d workers with %d threads.",
            settings.workers, settings.threads, cores, workers, threads,
        )  # fmt: skip
    return settings.model_copy(update={"workers": workers, "threads": threads})


def available_cores(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """The cores that this process may use: its CPU affinity, at most its container's CPU quota rounded up."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for files in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):  # cgroup v2, v1
        with suppress(OSError, ValueError):  # "max" means no limit
            quota, period = map(int, " ".join((cgroup / file).read_text() for file in files).split())
            if quota > 0:
                cores = min(cores, ceil(quota / period))
    return cores
