"""Gives memory back that a rush has left behind: the C library keeps what was freed, up to a third of the whole."""

import asyncio
import ctypes
import gc
from collections.abc import Callable

TIDY_SECONDS = 5.0


async def tidy(waiting: Callable[[], int]) -> None:
    """Now and then; Python's own garbage, which takes milliseconds of everyone's time, while nobody is `waiting`."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # malloc_trim(3), of glibc
    while True:
        await asyncio.sleep(TIDY_SECONDS)
        if not waiting():
            gc.collect()
        if trim:
            await asyncio.to_thread(trim, 0)
