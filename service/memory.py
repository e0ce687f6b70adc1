"""Gives memory back that a rush has left behind: the C library keeps what was freed, up to a third of the whole."""

import asyncio
import ctypes
import gc
from collections.abc import Callable

TIDY_SECONDS = 5.0
LARGE_BYTES = 2**20
M_MMAP_THRESHOLD = -3  # mallopt(3), of glibc

LIBC = ctypes.CDLL(None)


def keep_large_apart() -> None:
    """Gives what is large, such as a picture's pixels, back once it is freed, with no gap between what is small.

    glibc by itself raises the limit to the size of what was freed, up to 32 MiB: after a large picture, the next ones
    lie among all else.
    """
    if mallopt := getattr(LIBC, "mallopt", None):
        mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)


async def tidy(waiting: Callable[[], int]) -> None:
    """Now and then; Python's own garbage, which takes milliseconds of everyone's time, while nobody is `waiting`."""
    trim = getattr(LIBC, "malloc_trim", None)  # malloc_trim(3), of glibc
    while True:
        await asyncio.sleep(TIDY_SECONDS)
        if not waiting():
            gc.collect()
        if trim:
            await asyncio.to_thread(trim, 0)
