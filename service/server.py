"""Runs the app under uvicorn: one process, or several that share the port."""

import logging
import os
import signal
import sys
import warnings
from contextlib import suppress
from math import ceil
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from service.app import create_app
from service.settings import PREFIX, Settings, load_settings

INTERRUPTED = 130  # exit code, as a shell reports SIGINT
UVICORN_FAILED = 3  # exit code

logger = logging.getLogger(__name__)


def application() -> ASGIApp:
    """The app with its settings from the environment, as each worker makes it."""
    warnings.filterwarnings("ignore", module="PIL")  # each is kept, and an upload can cause 65,000 different ones
    return create_app(load_settings())


def serve(settings: Settings, flags: dict[str, str]) -> None:
    """Serves until SIGINT or SIGTERM, then finishes what was accepted. `flags` reach the workers as environment."""
    settings = within_cores(settings, available_cores())
    shared = {"workers": str(settings.workers), "threads": str(settings.threads)}
    os.environ.update({PREFIX + name.upper(): value for name, value in (flags | shared).items()})
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn raises both again once it has shut down
    signal.signal(signal.SIGINT, lambda *_: sys.exit(INTERRUPTED))
    try:
        run_uvicorn(settings)
    except SystemExit as error:
        if error.code == UVICORN_FAILED:  # to start, on a port that is taken for example; it has said why
            sys.exit(1)
        raise


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


def run_uvicorn(settings: Settings) -> None:
    uvicorn.run(
        "service.server:application",
        factory=True,
        host=settings.host,
        port=settings.port,
        workers=settings.workers,
        access_log=settings.access_log,
        server_header=False,
        proxy_headers=False,
    )
