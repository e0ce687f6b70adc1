"""Console output of a training run: lines, and a progress bar on a terminal."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


def print_line(console: Console, line: str) -> None:
    """Prints `line` as it is: no markup, no colours, no wrapping."""
    console.print(line, highlight=False, markup=False, soft_wrap=True)


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
        TextColumn("loss {task.fields[loss]:.4f}  {task.fields[rate]:,.0f} images/s"),
        TimeRemainingColumn(),
    )
    start = time.perf_counter()
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(title, total=images, loss=math.nan, rate=0.0)

        def update(done: int, loss: float) -> None:
            progress.update(task, completed=done, loss=loss, rate=done / (time.perf_counter() - start))

        yield update
