"""What the C library does with memory that was freed."""

import subprocess
import sys

import pytest

from service.memory import LIBC

PROGRAM = """
import ctypes
from service.memory import LIBC, keep_large_apart

class Counts(ctypes.Structure):  # struct mallinfo2
    _fields_ = [(name, ctypes.c_size_t) for name in
        "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()]

LIBC.malloc.restype = ctypes.c_void_p
LIBC.free.argtypes = [ctypes.c_void_p]
LIBC.mallinfo2.restype = Counts
keep_large_apart()
LIBC.free(LIBC.malloc(16 * 2**20))
before = LIBC.mallinfo2().hblkhd
LIBC.malloc(4 * 2**20)
print(LIBC.mallinfo2().hblkhd - before)
"""


@pytest.mark.skipif(not hasattr(LIBC, "mallinfo2"), reason="The C library is not glibc from 2.33 on.")
def test_what_is_large_stays_apart_also_after_something_larger_was_freed() -> None:
    result = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert int(result.stdout) >= 4 * 2**20  # bytes in mappings of their own
