"""Runs the app under uvicorn: one process, or several that share the port."""

import os
import signal
import sys
import warnings

import uvicorn
from starlette.types import ASGIApp

from service.app import create_app
from service.settings import PREFIX, Settings, load_settings

INTERRUPTED = 130  # exit code, as a shell reports SIGINT
UVICORN_FAILED = 3  # exit code


def application() -> ASGIApp:
    """The app with its settings from the environment, as each worker makes it."""
    warnings.filterwarnings("ignore", module="PIL")  # each is kept, and an upload can cause 65,000 different ones
    return create_app(load_settings())


def serve(settings: Settings, flags: dict[str, str]) -> None:
    """Serves until SIGINT or SIGTERM, then finishes what was accepted. `flags` reach the workers as environment."""
    os.environ.update({PREFIX + name.upper(): value for name, value in flags.items()})
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn raises both again once it has shut down
    signal.signal(signal.SIGINT, lambda *_: sys.exit(INTERRUPTED))
    try:
        run_uvicorn(settings)
    except SystemExit as error:
        if error.code == UVICORN_FAILED:  # to start, on a port that is taken for example; it has said why
            sys.exit(1)
        raise


def run_uvicorn(settings: Settings) -> None:
    uvicorn.run(
        "service.server:application",
        factory=True,
        host=settings.host,
        port=settings.port,
        workers=settings.workers,
        access_log=settings.access_log,
        server_header=False,
    )
