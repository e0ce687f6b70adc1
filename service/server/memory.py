"""Gives freed memory back to the system: glibc by itself keeps up to a third of a worker's memory after a burst."""

import ctypes
import threading
import time

TRIM_SECONDS = 5.0


def start_trimming() -> None:
    """Calls malloc_trim(3) every 5 s in a thread, where the C library is glibc."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library, or Windows
        return

    def trim_forever() -> None:
        while True:
            time.sleep(TRIM_SECONDS)
            trim(0)

    threading.Thread(target=trim_forever, name="trim", daemon=True).start()
