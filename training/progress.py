"""What a run tells people while it goes on: lines, and on a terminal a bar."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


def say(console: Console, line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def progress_bar(console: Console, title: str, images: int) -> Iterator[Callable[[int, float], None]]:
    """On a terminal, a bar with loss, images a second and time left; the function it gives sets images and loss."""
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

        def show(done: int, loss: float) -> None:
            progress.update(task, completed=done, loss=loss, rate=done / (time.perf_counter() - start))

        yield show
