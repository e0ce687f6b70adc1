"""Console output of a training run: lines, and a progress bar on a terminal."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

REFRESHES_PER_SECOND = 2  # each is kept in the file of a notebook


def printable(text: str) -> str:
    """The text with control characters, lone surrogates and the like as escapes such as \\x1b."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def print_line(console: Console, line: str) -> None:
    """Prints `line` as it is: no markup, no colours, no wrapping; unprintable characters are escaped."""
    console.print(printable(line), highlight=False, markup=False, soft_wrap=True)


@contextmanager
def progress_bar(console: Console, title: str, images: int) -> Iterator[Callable[[int, float], None]]:
    """Shows a progress bar with loss, images per second and remaining time; nothing where there is no terminal.

    Gives a function that sets the number of images done, of `images`, and the loss.
    """
    if not console.is_terminal:
        yield lambda done, loss: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("loss {task.fields[loss]}  {task.fields[rate]} images/s"),
        TimeRemainingColumn(),
    )
    start = time.perf_counter()
    with Progress(*columns, console=console, transient=True, refresh_per_second=REFRESHES_PER_SECOND) as progress:
        task = progress.add_task(title, total=images, loss="-", rate="-")

        def update(done: int, loss: float) -> None:
            rate = done / (time.perf_counter() - start)
            progress.update(task, completed=done, loss=f"{loss:.4f}", rate=f"{rate:,.0f}")

        yield update
