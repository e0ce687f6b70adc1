"""Starts the two processes of a data-parallel run as torchrun does, each as if on a machine of its own."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.service.conftest import free_port
from tests.training.test_run import ONE_THREAD, ROOT

Run = tuple[subprocess.Popen[str], subprocess.Popen[str]]
SECONDS = 60.0  # for a process to end after another one has


@contextmanager
def two_processes(main: tuple[str | Path, ...], other: tuple[str | Path, ...]) -> Iterator[Run]:
    """`python -m training.run` with the arguments `main` in the process of rank 0 and `other` in that of rank 1."""
    environment = os.environ | ONE_THREAD | {"WORLD_SIZE": "2", "LOCAL_RANK": "0"}
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    first, second = (
        subprocess.Popen(
            [sys.executable, "-m", "training.run", *map(str, arguments)],
            cwd=ROOT,
            env=environment | {"RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, arguments in enumerate((main, other))
    )
    try:
        yield first, second
    finally:
        for process in (first, second):
            process.kill()
            process.communicate()


def ended(processes: Run) -> list[tuple[int, str, str]]:
    """Exit code, standard output and standard error of both."""
    answers = [process.communicate(timeout=SECONDS) for process in processes]
    return [(process.returncode, *answer) for process, answer in zip(processes, answers, strict=True)]


def wait_for(process: subprocess.Popen[str], beginning: str) -> str:
    """Reads standard output up to a line that starts with `beginning`; that line."""
    assert process.stdout
    return next(line for line in process.stdout if line.startswith(beginning))
