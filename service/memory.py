"""Gives memory back that a rush has left behind: the C library keeps what was freed, up to a third of the whole."""

import asyncio
import ctypes
import gc
from collections.abc import Callable

TIDY_SECONDS = 5.0


async def tidy(waiting: Callable[[], int]) -> None:
    """Now and then, if nobody is `waiting` for the milliseconds that it takes."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # malloc_trim(3), of glibc
    while True:
        await asyncio.sleep(TIDY_SECONDS)
        if not waiting():
            gc.collect()
            if trim:
                trim(0)
