"""Keeps the memory of a training step for the next one, which needs as much of it again."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # mallopt(3), of glibc
KEPT_BYTES = 2**30
LARGEST_BYTES = 2**25  # 32 MiB: the most that older versions of glibc accept; what is larger is given back at once


def keep_freed() -> None:
    """Tells glibc not to give freed memory back to the system.

    By itself it does, several times a step, and each page that comes back costs a fault: on two CPU cores a sixth of
    the time. Elsewhere this does nothing.
    """
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        mallopt(M_MMAP_THRESHOLD, LARGEST_BYTES)
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(M_TOP_PAD, KEPT_BYTES // 8)
