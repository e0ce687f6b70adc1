"""Progress of bulk scoring: what the tasks of Ray Data report, the bar, and the end of a run without progress."""

import threading
import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar

STALL_SECONDS = 60.0  # without progress, and the run ends
REPORT_SECONDS = 1.0  # between two reports of a task

State = tuple[int, int]  # the number of the pictures that were scored, and of other steps


class BulkError(Exception):
    """Why the run cannot begin or go on; one sentence."""


class Progress:
    """An actor that counts pictures that were scored, and other steps. A picture that is scored again is counted again;
    a step is not, so that a task that dies again and again makes no progress."""

    def __init__(self) -> None:
        self._scored = 0
        self._steps: set[str] = set()

    def add(self, scored: int) -> None:
        self._scored += scored

    def reach(self, step: str) -> None:
        self._steps.add(step)

    def state(self) -> State:
        return self._scored, len(self._steps)


class Reporter:
    """Tells the actor `progress` what a task does, at once and then at most once in REPORT_SECONDS."""

    def __init__(self, progress: Any) -> None:
        self._progress = progress
        self._scored, self._next = 0, 0.0

    def scored(self) -> None:
        """Counts a picture."""
        self._scored += 1
        if self._is_due():
            self.flush()

    def flush(self) -> None:
        self._progress.add.remote(self._scored)
        self._scored = 0

    def read(self, row: int) -> None:
        """The task has read the input up to this row."""
        if self._is_due():
            self._progress.reach.remote(f"row {row} was read")

    def _is_due(self) -> bool:
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + REPORT_SECONDS
        return True


def watch(
    thread: threading.Thread,
    state: Callable[[], State | None],
    before: int,
    total: int,
    console: Console,
    stall_seconds: float = STALL_SECONDS,
) -> None:
    """Shows the progress, after `before` pictures of earlier runs, until the thread ends. `state` gives that of
    Progress, or None if it does not answer. Raises BulkError if there is no news for `stall_seconds`."""
    columns = (TextColumn("scoring"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    known, last = (0, 0), time.monotonic()
    with ProgressBar(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=total, completed=before)
        while thread.is_alive():
            thread.join(1)
            if (found := state()) and found != known:
                known, last = found, time.monotonic()
                bar.update(task, completed=before + known[0])
            elif (seconds := time.monotonic() - last) > stall_seconds:
                raise BulkError(
                    f"There was no progress for {seconds:.0f} s, after {before + known[0]:,} of {total:,} pictures; "
                    "look at the load and the free memory of the machine, then continue with --resume."
                )
